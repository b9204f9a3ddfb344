"""Films: some of their frames, evenly spaced, each of which is a picture to the model.

A film is a file that PyAV reads (MP4, MOV, Matroska, WebM, AVI), an animation (GIF, WebP), or a list of pictures. What
opens comes from data, which is not trusted: the reader is chosen by the first bytes of a file, so that no playlist can
name other files, and the sizes of the file, of each frame and of all that must be gone through to reach one are judged
before it is made. All frames of a file must be as large as its first one, by which they were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from vlmforge.data.media import MAX_PIXELS, REPLACE, SHRINK, Media, open_media
from vlmforge.errors import DataError, Problem

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlmforge.data.sample import Message, Place

# An hour and a half at 60 frames a second.
MAX_FRAMES = 324_000
# Gone through to reach one frame: nine minutes of 1920 x 1080 at 30 frames a second without a key frame.
MAX_PASSED_PIXELS = 2**35

_MORE_KEYS = "encode it with more key frames or smaller, or leave such samples out with  data.on_bad_sample=skip"
# First bytes of a file, from where on, and FFmpeg's reader of such files.
_CONTAINERS = ((4, b"ftyp", "mov"), (4, b"moov", "mov"), (0, b"\x1aE\xdf\xa3", "matroska"), (8, b"AVI ", "avi"))


@dataclass(frozen=True)
class Film:
    """A film of a sample.

    Attributes:
        name: its sample and its own name, for messages.
        file: where it is; None where its frames are given one by one.
        pictures: its frames, where they are given one by one.
    """

    name: str
    file: Media | None = None
    pictures: tuple[Media, ...] = ()

    @property
    def path(self) -> str | None:
        """Of its file, if it is one."""
        return None if self.file is None else self.file.path

    def read_size(self) -> tuple[int, int]:
        """(width, height) of its first frame.

        Raises:
            DataError: the film cannot be read, or is absurdly large or long.
        """
        return self.choose(1)[0].read_size()

    def choose(self, count: int) -> list[Frame]:
        """So many of its frames, the first and the last among them; all if it has no more.

        Raises:
            DataError: as `read_size`.
        """
        total = self._count()
        if total > MAX_FRAMES:
            raise self.reader.error(f"the film has more than {MAX_FRAMES} frames", SHRINK, "oversized_image")
        if total == 0:
            raise self.reader.error("the film has no frames", REPLACE, "undecodable_image")
        count = min(count, total)
        size = None if self.file is None else self.decode([0])[0].size
        return [Frame(self, k * (total - 1) // max(1, count - 1), size) for k in range(count)]

    def decode(self, numbers: Sequence[int]) -> list[Image]:
        """Some of its frames in RGB, upright.

        Args:
            numbers: counted from 0, ascending.

        Raises:
            DataError: one cannot be decoded.
        """
        if self.file is None:
            return [self.pictures[number].decode() for number in numbers]
        if self._format is None:
            # Frames of an animation are painted on each other.
            width, height = self.file.read_size()
            self._check_passed(width * height * (max(numbers) + 1))
            return self.file.decode_frames(numbers)
        with self._open(self._format) as (container, stream):
            times, keys = _list_times(container, stream)
            wanted = [times[number] for number in numbers]
            images = list(_decode_at(container, stream, wanted, keys, self._check_passed))
        if len(images) < len(numbers):
            what = f"the film breaks off: {len(images)} of {len(numbers)} frames could be decoded"
            raise self.file.error(what, REPLACE, "undecodable_image")
        return images

    def _check_passed(self, num_pixels: int) -> None:
        """What is gone through to reach one frame."""
        if num_pixels > MAX_PASSED_PIXELS:
            what = f"more than {MAX_PASSED_PIXELS} pixels of the film must be gone through to reach one frame"
            raise self.reader.error(what, _MORE_KEYS, "oversized_image")

    @property
    def reader(self) -> Media:
        """What errors are told of."""
        return self.file or self.pictures[0]

    @cached_property
    def _format(self) -> str | None:
        """FFmpeg's reader for the file; None where it is an animation or pictures."""
        if self.file is None:
            return None
        with self.file.open_file() as file:
            head = file.read(16)
        return next((name for at, magic, name in _CONTAINERS if head[at : at + len(magic)] == magic), None)

    def _count(self) -> int:
        """Its frames, without decoding them."""
        if self.file is None:
            return len(self.pictures)
        if self._format is None:
            return self.file.count_frames()
        with self._open(self._format) as (container, stream):
            return len(_list_times(container, stream)[0])

    @contextmanager
    def _open(self, format_name: str) -> Iterator[tuple[Any, Any]]:
        """PyAV's container and its film."""
        av = _import_av()
        assert self.file is not None, "a film in a file"
        with self.file.open_file() as file:
            try:
                with av.open(file, format=format_name, metadata_errors="ignore") as container:
                    if not container.streams.video:
                        raise self.file.error("the file has no film in it", REPLACE, "undecodable_image")
                    stream = container.streams.video[0]
                    if stream.width * stream.height > MAX_PIXELS:
                        what = f"the film has {stream.width} x {stream.height} pixels, more than {MAX_PIXELS}"
                        raise self.file.error(what, SHRINK, "oversized_image")
                    # A frame in the middle of the film may say another size.
                    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
                    yield container, stream
            except av.FFmpegError as error:
                what = f"the film cannot be decoded: {error.strerror}"
                raise self.file.error(what, REPLACE, "undecodable_image") from None


@dataclass(frozen=True)
class Frame:
    """One frame of a film: a picture.

    Attributes:
        film: the film.
        number: counted from 0.
        size: (width, height) in pixels, as the first frame of its file has; None where it is a picture of a list.
    """

    film: Film
    number: int
    size: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The film's, with the number."""
        return f"{self.film.path or self.film.name}, frame {self.number}"

    @property
    def path(self) -> None:
        """It has no file of its own."""

    def read_size(self) -> tuple[int, int]:
        """(width, height) in pixels as `decode` will give them.

        Raises:
            DataError: as `decode`.
        """
        return self.size or self.film.pictures[self.number].read_size()

    def decode(self) -> Image:
        """The picture in RGB, upright.

        Raises:
            DataError: it cannot be decoded, or has another size than it was measured by.
        """
        return _decode_run(self.film, [self])[0]


def open_film(value: Any, place: Place, name: str) -> Film:
    """The film that a row's value stands for; nothing is opened.

    Args:
        value: what `open_media` takes, or a list of such, which are its frames.
        place: where the row was read.
        name: of the value in its row.

    Raises:
        DataError: the value is neither.
    """
    told = f"{place.where} (sample {place.sample_id}), {name}"
    if not isinstance(value, list | tuple):
        file = open_media(value, place, name)
        return Film(file.name, file)
    if not value:
        raise place.error(f"{name} is an empty list", "give a film at least one frame", "empty")
    return Film(told, None, tuple(open_media(item, place, f"{name}[{k}]") for k, item in enumerate(value)))


def unroll_films(turns: Sequence[Message], num_frames: int) -> tuple[Message, ...]:
    """The turns with so many pictures in the place of each film.

    Raises:
        DataError: a film cannot be read.
    """
    return tuple(
        turn
        if isinstance(turn["content"], str)
        else {**turn, "content": tuple(new for part in turn["content"] for new in _unroll(part, num_frames))}
        for turn in turns
    )


def decode_all(pictures: Sequence[Media | Frame]) -> list[Image]:
    """Every picture; frames of one film that follow each other in one pass.

    Raises:
        DataError: one cannot be decoded.
    """
    images: list[Image] = []
    for film, run in groupby(pictures, key=lambda one: one.film if isinstance(one, Frame) else None):
        if film is None:
            images.extend(one.decode() for one in run)
        else:
            images.extend(_decode_run(film, [one for one in run if isinstance(one, Frame)]))
    return images


def _decode_run(film: Film, frames: Sequence[Frame]) -> list[Image]:
    """Frames of one film in one pass."""
    images = film.decode([frame.number for frame in frames])
    for frame, image in zip(frames, images, strict=True):
        if image.size != (frame.size or image.size):
            sizes = [f"{width} x {height}" for width, height in (image.size, frame.read_size())]
            what = f"frame {frame.number} of the film has {sizes[0]} pixels, its first frame {sizes[1]}"
            raise film.reader.error(what, REPLACE, "undecodable_image")
    return images


def _unroll(part: Mapping[str, Any], num_frames: int) -> list[Mapping[str, Any]]:
    """A part of a content, or the pictures that it becomes."""
    if part["type"] != "video":
        return [part]
    return [{"type": "image", "image": frame} for frame in part["video"].choose(num_frames)]


def _import_av() -> Any:
    """PyAV, which is an extra."""
    try:
        import av
        import av.error
    except ImportError:
        problem = Problem(
            "PyAV, which reads films, is not installed", "the environment", "pip install 'vlmforge[video]'"
        )
        raise DataError(problem) from None
    return av


def _list_times(container: Any, stream: Any) -> tuple[list[int], list[int]]:
    """When each frame is shown, and when each that needs no other one is; nothing is decoded."""
    times: list[int] = []
    keys: list[int] = []
    for packet in container.demux(stream):
        if packet.pts is not None:
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
        if len(times) > MAX_FRAMES:
            break
    return sorted(times), sorted(keys)


def _decode_at(
    container: Any, stream: Any, wanted: Sequence[int], keys: Sequence[int], check_passed: Callable[[int], None]
) -> Iterator[Image]:
    """The frames at some times; what lies between two of them is decoded only where no frame stands alone there."""
    frames: Iterator[Any] = iter(())
    at: int | None = None
    for time in wanted:
        if at is None or time < at or any(at < key <= time for key in keys):
            container.seek(time, stream=stream, backward=True)
            frames = container.decode(stream)
        passed = 0
        for frame in frames:
            passed += frame.width * frame.height
            check_passed(passed)
            if frame.pts is not None and frame.pts >= time:
                break
        else:
            return
        image = frame.to_image()
        yield image.rotate(frame.rotation, expand=True) if frame.rotation else image
        at = time
