"""Pictures: where their bytes are, how large they are, and what they show. Films are the matter of `film.py`.

The only file that decodes them. What it opens comes from data, which is not trusted: only plain picture formats
are read, a header that promises more pixels than a screen has is refused before a pixel is made, and an address on
the network is fetched only where the recipe says so.
"""

from __future__ import annotations

import base64
import binascii
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vlmforge.data.bad import BadKind, BadSampleError
from vlmforge.errors import Problem

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

    from vlmforge.data.sample import Place

# 256 MiB as RGB.
MAX_PIXELS = 89_478_485
MAX_BYTES = 512 * 2**20

# No format that runs a program (EPS) or holds pages.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# The EXIF tag of how a camera was held, and its values that swap width and height.
_ORIENTATION_TAG = 274
_SIDEWAYS = (5, 6, 7, 8)
# What PIL raises at bytes that are not what their first ones promise.
_PIL_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error)


@dataclass(frozen=True)
class Media:
    """One picture of a sample, or the file of a film: exactly one of `data` and `path`.

    Attributes:
        data: the file's bytes.
        path: local file, or fsspec URL.
        name: its sample and its own name, for messages.
    """

    data: bytes | None
    path: str | None
    name: str

    def read_size(self) -> tuple[int, int]:
        """(width, height) in pixels as `decode` will give them, from the header alone.

        Raises:
            DataError: the file is missing, no picture, or absurdly large.
        """
        with self._open() as image:
            width, height = image.size
            return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)

    def decode(self) -> Image:
        """The picture in RGB, upright; what is transparent becomes white.

        Raises:
            DataError: as `read_size`, or the pixels cannot be decoded.
        """
        from PIL import ImageOps

        with self._open() as image:
            is_turned = _orientation(image) != 1
            try:
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image) if is_turned else image)
            except _PIL_ERRORS as error:
                raise self.error(f"the picture cannot be decoded: {error}", REPLACE, "undecodable_image") from None

    def count_frames(self) -> int:
        """Pictures in the file, of which an animation has several.

        Raises:
            DataError: as `read_size`.
        """
        with self._open() as image:
            try:
                return getattr(image, "n_frames", 1)
            except _PIL_ERRORS as error:
                raise self.error(f"the film cannot be read: {error}", REPLACE, "undecodable_image") from None

    def decode_frames(self, numbers: Sequence[int]) -> list[Image]:
        """Some of these pictures, as `decode`.

        Args:
            numbers: counted from 0, ascending.

        Raises:
            DataError: as `decode`.
        """
        from PIL.Image import DecompressionBombError, DecompressionBombWarning

        frames: list[Image] = []
        with self._open() as image:
            try:
                for number in numbers:
                    image.seek(number)
                    # A page of a TIFF says its own size.
                    self._check_size(*image.size)
                    frames.append(_to_rgb(image.copy()))
            except (*_PIL_ERRORS, DecompressionBombError, DecompressionBombWarning) as error:
                raise self.error(f"the film cannot be decoded: {error}", REPLACE, "undecodable_image") from None
        return frames

    def read_bytes(self) -> bytes:
        """The whole file.

        Raises:
            DataError: it is missing, or absurdly large.
        """
        with self.open_file() as file:
            return file.read()

    @contextmanager
    def _open(self) -> Iterator[Image]:
        """The picture with its header read and judged, its pixels not made."""
        from PIL import Image

        _judge_sizes_alone()
        with self.open_file() as file:
            try:
                image = Image.open(file, formats=_FORMATS)
            except (Image.DecompressionBombError, Image.DecompressionBombWarning):
                raise self.error(f"the picture has more than {MAX_PIXELS} pixels", SHRINK, "oversized_image") from None
            except _PIL_ERRORS:
                formats = ", ".join(_FORMATS)
                what = f"the file is no picture that can be read ({formats})"
                raise self.error(what, REPLACE, "undecodable_image") from None
            self._check_size(*image.size)
            yield image

    def _check_size(self, width: int, height: int) -> None:
        if width * height > MAX_PIXELS:
            what = f"the picture has {width} x {height} pixels, more than {MAX_PIXELS}"
            raise self.error(what, SHRINK, "oversized_image")
        if width < 1 or height < 1:
            raise self.error(f"the picture has {width} x {height} pixels", REPLACE, "undecodable_image")

    @contextmanager
    def open_file(self) -> Iterator[IO[bytes]]:
        """The file, open for reading; what it costs is known before it is read.

        Raises:
            DataError: it is missing, or absurdly large.
        """
        if self.data is not None:
            self._check_bytes(len(self.data))
            yield BytesIO(self.data)
            return
        assert self.path is not None, "media without bytes and without a path"
        try:
            with _open_path(self.path) as file:
                self._check_bytes(file.seek(0, 2))
                file.seek(0)
                yield file
        except FileNotFoundError:
            raise self.error(f"file {self.path} does not exist", MEND_PATH, "missing_file") from None
        except ImportError as error:
            fix = "install what is missing, or give a file of this machine"
            raise self.error(f"file {self.path} cannot be fetched: {error}", fix, "missing_file") from None
        except (OSError, ValueError) as error:
            raise self.error(f"file {self.path} cannot be read: {error}", MEND_PATH, "missing_file") from None

    def _check_bytes(self, num_bytes: int) -> None:
        if num_bytes > MAX_BYTES:
            raise self.error(f"the file has {num_bytes} bytes, more than {MAX_BYTES}", SHRINK, "oversized_image")

    def error(self, what: str, fix: str, kind: BadKind) -> BadSampleError:
        """What is wrong with it, with its name."""
        return BadSampleError(Problem(what, self.name, fix), kind)


REPLACE = "replace the file, or leave such samples out with  data.on_bad_sample=skip"
SHRINK = "scale it down, or leave such samples out with  data.on_bad_sample=skip"
MEND_PATH = "mend the path (media_root of the source says where relative ones start), or data.on_bad_sample=skip"


def open_media(value: Any, place: Place, name: str) -> Media:
    """The media that a row's value stands for; nothing is opened.

    Args:
        value: a path, a `data:` or `file:` URL, another URL where the source allows it, the file's bytes, or an
            object with `bytes` or `path` or `url` as Hugging Face's datasets and OpenAI's messages have.
        place: where the row was read; its `media_root` is where relative paths start.
        name: of the value in its row, such as `messages[0].content[1]`.

    Raises:
        DataError: the value is none of these.
    """
    if isinstance(value, Mapping):
        value = next((value[key] for key in ("bytes", "path", "url") if value.get(key) is not None), None)
    told = f"{place.where} (sample {place.sample_id}), {name}"
    if isinstance(value, bytes | bytearray | memoryview):
        return Media(bytes(value), None, told)
    if value == "":
        raise place.error(f"{name} is empty", "give the path of a file", "empty")
    if not isinstance(value, str):
        kind = type(value).__name__
        raise place.error(f"{name} is of type {kind}, neither a path nor bytes", "give the path of a file")
    if value.startswith("data:"):
        return Media(_decode_data_url(value, place, name), None, told)
    path = value.removeprefix("file://")
    if "://" in path:
        if not place.may_fetch:
            raise place.error(
                f"{name} = {value[:120]} is an address on the network; rows alone may not have one fetched",
                "fetch the files beforehand, or allow it for this source with  fetch_media: true",
                "refused_address",
            )
        return Media(None, path, f"{told}, {path}")
    return Media(None, join_path(place.media_root, path), f"{told}, {path}")


def join_path(root: str, path: str) -> str:
    """A path below a folder or fsspec URL; an absolute path stays as it is."""
    if not root or Path(path).is_absolute():
        return path
    return f"{root.rstrip('/')}/{path}" if "://" in root else str(Path(root) / path)


def _open_path(path: str) -> Any:
    """A local file, or what fsspec opens."""
    if "://" not in path:
        return Path(path).open("rb")
    import fsspec

    return fsspec.open(path, "rb")


def _decode_data_url(url: str, place: Place, name: str) -> bytes:
    """The bytes in `data:<type>;base64,<...>`."""
    header, _, body = url.partition(",")
    if not header.endswith(";base64"):
        raise place.error(
            f"{name} is a data: URL that is not in base64", "write data:image/png;base64,...", "undecodable_image"
        )
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise place.error(
            f"{name} is a data: URL that cannot be decoded: {error}", "encode it again", "undecodable_image"
        ) from None


def _judge_sizes_alone() -> None:
    """Keep PIL from warning of pictures that are refused here in words of our own.

    The filter is the process's, as catching warnings would mix those of threads; it is looked for each time because
    whoever catches warnings around this takes it away again.
    """
    from PIL.Image import DecompressionBombWarning

    if ("ignore", None, DecompressionBombWarning, None, 0) not in warnings.filters:
        warnings.simplefilter("ignore", DecompressionBombWarning)


def _orientation(image: Image) -> int:
    """How the camera was held, if the header says it; 1 is upright."""
    # Elsewhere asking for EXIF data would decode the pixels, or find what stands behind them.
    if image.format != "TIFF" and "exif" not in image.info:
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _PIL_ERRORS:
        return 1


def _to_rgb(image: Image) -> Image:
    """Three channels of eight bits; transparent parts over white, greys of 16 bits scaled."""
    from PIL import Image as Pil

    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    if "A" in image.getbands() or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Pil.new("RGBA", over.size, "white")
        return Pil.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def encode_thumbnail(pixels: npt.NDArray[np.uint8], side: int) -> tuple[str, int, int]:
    """A picture to look at.

    Args:
        pixels: `[height, width, 3]`.
        side: pixels of its longer side at most.

    Returns:
        JPEG in base64, and its width and height.
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    file = BytesIO()
    image.save(file, "JPEG", quality=88)
    return base64.b64encode(file.getvalue()).decode(), image.width, image.height
