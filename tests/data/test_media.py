"""Pictures of a row: what is opened, what is refused, and in which words."""

import base64
import struct
import zlib
from io import BytesIO

import pytest
from PIL import Image

from vlmforge.data.formats import FORMATS
from vlmforge.data.media import Media, open_media
from vlmforge.data.sample import Place
from vlmforge.errors import DataError

PLACE = Place("s", 4, "file.jsonl:5")


def png(size=(6, 4), colour=(250, 0, 0), mode="RGB", **options):
    buffer = BytesIO()
    Image.new(mode, size, colour).save(buffer, options.pop("format", "PNG"), **options)
    return buffer.getvalue()


def problem_of(act):
    with pytest.raises(DataError) as caught:
        act()
    (problem,) = caught.value.problems
    return problem


def parse(content, place=PLACE):
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "a cat"}]
    return FORMATS["messages"].parse({"messages": turns}, {}, place)


def as_data_url(data):
    return "data:image/png;base64," + base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "part",
    [
        lambda path: {"type": "image_url", "image_url": {"url": path}},
        lambda path: {"type": "image_url", "image_url": path, "detail": "low"},
        lambda path: {"type": "image_url", "image_url": {"url": f"file://{path}"}},
        lambda path: {"type": "image_url", "image_url": {"url": as_data_url(png())}},
        lambda path: {"type": "image", "image": path, "text": None},
        lambda path: {"type": "image", "path": path},
        lambda path: {"type": "image", "image": {"bytes": png(), "path": "absent.png"}},
        lambda path: {"type": "image", "image": png()},
    ],
)
def test_an_image_part_may_be_written_in_many_ways(part, tmp_path):
    (tmp_path / "red.png").write_bytes(png())
    sample = parse(
        [{"type": "text", "text": "What "}, part(str(tmp_path / "red.png")), {"type": "text", "text": "is it?"}]
    )
    text, image, _ = sample.messages[0]["content"]
    assert text == {"type": "text", "text": "What "}
    assert image["type"] == "image"
    assert image["image"].read_size() == (6, 4)
    assert image["image"].decode().getpixel((0, 0)) == (250, 0, 0)
    assert sample.media() == [image["image"]]


def test_relative_paths_start_at_the_media_root(tmp_path):
    (tmp_path / "red.png").write_bytes(png())
    place = Place("s", 4, "file.jsonl:5", media_root=str(tmp_path))
    assert open_media("red.png", place, "image").read_size() == (6, 4)
    assert open_media("red.png", Place("s", 0, "x", media_root=f"file://{tmp_path}"), "image").path is not None


def test_an_address_on_the_network_needs_leave():
    url = "https://example.org/cat.png"
    problem = problem_of(lambda: parse([{"type": "image", "image": url}]))
    assert "messages[0].content[0].image = https://example.org/cat.png is an address on the network" in problem.what
    assert problem.where == "file.jsonl:5 (sample s#4)"
    assert "fetch_media: true" in problem.fix
    assert open_media(url, Place("s", 4, "x", may_fetch=True), "image").path == url


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_picture_is_turned_as_its_camera_was_held(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    media = Media(png(format="JPEG", exif=exif), None, "x")
    assert media.decode().size == media.read_size() == ((4, 6) if orientation == 6 else (6, 4))


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (0, 0, 0, 0), (255, 255, 255)),
        ("L", 7, (7, 7, 7)),
        ("I;16", 256 * 9, (9, 9, 9)),
        ("1", 1, (255, 255, 255)),
        ("P", 0, (0, 0, 0)),
    ],
)
def test_every_kind_of_picture_becomes_rgb_over_white(mode, colour, expected):
    assert Media(png(mode=mode, colour=colour), None, "x").decode().getpixel((0, 0)) == expected


def bomb(width, height):
    """A PNG that promises pixels in its header and has none."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (header, b"IDAT" + zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bomb(20_000, 20_000), "more than 89478485"),
        # PIL would warn of it, which the suite takes for an error.
        (bomb(10_000, 10_000), "has 10000 x 10000 pixels, more than 89478485"),
        (b"no picture", "no picture that can be read"),
        (b"", "no picture that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture that can be read"),
    ],
)
def test_what_is_no_sane_picture_is_refused_by_its_header(data, words):
    problem = problem_of(Media(data, None, "file.jsonl:5 (sample s#4), image").read_size)
    assert words in problem.what
    assert problem.where == "file.jsonl:5 (sample s#4), image"


def test_a_picture_cut_off_is_told_when_it_is_decoded():
    noise = Image.effect_noise((64, 64), 90)
    buffer = BytesIO()
    noise.save(buffer, "JPEG")
    media = Media(buffer.getvalue()[:600], None, "x")
    assert media.read_size() == (64, 64)
    assert "cannot be decoded" in problem_of(media.decode).what


def test_a_missing_file_names_the_path_and_the_sample(tmp_path):
    media = open_media("absent.png", Place("s", 4, "file.jsonl:5", media_root=str(tmp_path)), "image")
    problem = problem_of(media.read_size)
    assert problem.what == f"file {tmp_path}/absent.png does not exist"
    assert problem.where.startswith("file.jsonl:5 (sample s#4), image")
    assert "media_root" in problem.fix


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "the row has 0 images"),
        (7, "of type int"),
        ({"size": 3}, "of type NoneType"),
        ("data:image/png;base64,!!", "cannot be decoded"),
        ("data:image/png,abc", "not in base64"),
    ],
)
def test_a_value_that_is_no_image_is_refused(value, words):
    assert words in problem_of(lambda: parse([{"type": "image", "image": value}])).what
