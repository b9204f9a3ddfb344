"""Films of a row: which frames are seen, and what is refused."""

import sys
from io import BytesIO

import pytest
from tests.support.films import NUM_FRAMES, STEP, frames, make_changing_film, make_film

from vlmforge.data.film import Film, decode_all, open_film, unroll_films
from vlmforge.data.formats import FORMATS
from vlmforge.data.media import Media
from vlmforge.data.sample import Place
from vlmforge.errors import DataError

PLACE = Place("s", 4, "file.jsonl:5")


def make_animation(kind):
    buffer = BytesIO()
    first, *others = frames()
    first.save(buffer, kind, save_all=True, append_images=others, duration=200, lossless=True)
    return buffer.getvalue()


def make_list():
    made = []
    for image in frames():
        buffer = BytesIO()
        image.save(buffer, "PNG")
        made.append(buffer.getvalue())
    return made


def numbers(images):
    return [round(image.getpixel((20, 10))[0] / STEP) for image in images]


@pytest.mark.parametrize(
    "value",
    [
        make_film("mp4"),
        make_film("matroska"),
        make_film("avi"),
        make_animation("GIF"),
        make_animation("WEBP"),
        make_list(),
    ],
    ids=["mp4", "matroska", "avi", "gif", "webp", "list"],
)
def test_frames_are_taken_evenly_from_the_first_to_the_last(value):
    film = open_film(value, PLACE, "video")
    for count, expected in ((1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (99, list(range(NUM_FRAMES)))):
        chosen = film.choose(count)
        assert [frame.number for frame in chosen] == expected
        assert numbers(decode_all(chosen)) == expected
        assert {frame.read_size() for frame in chosen} == {(48, 32)}
    assert numbers([film.choose(5)[2].decode()]) == [4]


def test_a_film_that_was_held_sideways_stands_upright():
    content = bytearray(make_film())
    # The matrix of its track header: what is its right becomes its lower end.
    at = content.index(b"tkhd") + 44
    turned = (0, 0x10000, 0, -0x10000, 0, 0, 32 << 16, 0, 0x40000000)
    content[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in turned)
    (frame,) = open_film(bytes(content), PLACE, "video").choose(1)
    assert frame.read_size() == frame.decode().size == (32, 48)


def test_films_become_pictures_where_they_stand():
    part = {"type": "video", "video": {"bytes": make_film()}}
    content = [{"type": "text", "text": "a"}, part, {"type": "text", "text": "b"}, {"type": "image", "image": b"x"}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "c"}]
    sample = FORMATS["messages"].parse({"messages": turns}, {}, PLACE)
    asked, answered = unroll_films(sample.messages, 3)
    assert [part["type"] for part in asked["content"]] == ["text", "image", "image", "image", "text", "image"]
    assert [part["image"].number for part in asked["content"][1:4]] == [0, 4, 9]
    assert answered == turns[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (make_film()[:600], "the file has no film in it"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "no picture that can be read"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "no picture that can be read"),
        (b"", "no picture that can be read"),
    ],
    ids=["cut", "playlist", "list", "empty"],
)
def test_what_is_no_film_is_a_bad_sample(content, words):
    with pytest.raises(DataError, match=words) as caught:
        open_film(content, PLACE, "video").read_size()
    assert caught.value.kind == "undecodable_image"
    assert caught.value.problems[0].where == "file.jsonl:5 (sample s#4), video"


def test_a_film_that_breaks_off_has_the_frames_that_are_there():
    content = make_film("matroska")
    # How many bytes a frame has depends on the number of cores that it was encoded on.
    chosen = open_film(content[: len(content) * 13 // 16], PLACE, "video").choose(99)
    assert 4 < len(chosen) < NUM_FRAMES
    assert numbers(decode_all(chosen)) == list(range(len(chosen)))


def test_an_empty_list_is_no_film():
    with pytest.raises(DataError, match="video is an empty list"):
        open_film([], PLACE, "video")


def test_an_endless_film_is_refused(monkeypatch):
    monkeypatch.setattr("vlmforge.data.film.MAX_FRAMES", 9)
    with pytest.raises(DataError, match="more than 9 frames"):
        open_film(make_film(), PLACE, "video").read_size()


def test_a_huge_film_is_refused(monkeypatch):
    monkeypatch.setattr("vlmforge.data.film.MAX_PIXELS", 1000)
    with pytest.raises(DataError, match="48 x 32 pixels") as caught:
        open_film(make_film(), PLACE, "video").read_size()
    assert caught.value.kind == "oversized_image"


def test_without_its_library_a_film_stops_the_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match="PyAV") as caught:
        Film("x", Media(make_film(), None, "x")).read_size()
    assert "vlmforge[video]" in caught.value.problems[0].fix
    assert not hasattr(caught.value, "kind")


def test_frames_of_another_size_than_the_first_are_refused():
    film = open_film(make_changing_film((48, 32), (48, 32), (64, 48)), PLACE, "video")
    assert [image.size for image in decode_all(film.choose(99)[:2])] == [(48, 32)] * 2
    for decode in (lambda: decode_all(film.choose(99)), film.choose(99)[2].decode):
        with pytest.raises(
            DataError, match="frame 2 of the film has 64 x 48 pixels, its first frame 48 x 32"
        ) as caught:
            decode()
        assert caught.value.kind == "undecodable_image"


def test_a_frame_that_turns_out_huge_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr("vlmforge.data.film.MAX_PIXELS", 2000)
    film = open_film(make_changing_film((48, 32), (64, 48)), PLACE, "video")
    # Threads decode it ahead, so that it may be found with the first frame already.
    with pytest.raises(DataError, match="the film cannot be decoded: Invalid argument"):
        film.decode([0, 1])


@pytest.mark.parametrize("value", [make_film(), make_animation("GIF")], ids=["mp4", "gif"])
def test_a_frame_that_too_much_stands_before_is_refused(value, monkeypatch):
    # Key frames are 0, 4 and 8; in an animation everything before a frame counts.
    monkeypatch.setattr("vlmforge.data.film.MAX_PASSED_PIXELS", 3 * 48 * 32)
    film = open_film(value, PLACE, "video")
    assert numbers(film.decode([0, 2])) == [0, 2]
    with pytest.raises(DataError, match="must be gone through to reach one frame") as caught:
        film.decode([3])
    assert caught.value.kind == "oversized_image"
