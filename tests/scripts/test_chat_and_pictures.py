"""What the scripts make of packages that are not fetched here: conversations and captions."""

import io
import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from caption_parts import PARTS, count_commonest, count_right
from chitchat import parse_conversations
from colours import name_colours
from fetch_assets import write_captions
from openmoji import Caption, choose_captions, draw_pictures, read_index, split_captions, write_csv, write_messages
from PIL import Image
from stamps import draw_stamps, hash_stamps, read_stamps


def turn(sender, *texts):
    return [{"sender": sender, "text": text} for text in texts]


def test_a_conversation_becomes_turns_up_to_its_last_answer():
    content = {
        "1": {"messages": [turn("a", "Hello", "you"), turn("b", "Hi"), turn("a", " "), turn("a", "bye")]},
        "2": {"messages": [turn("a", "alone"), turn("a", "again")]},
        "3": {"messages": [turn("x", "one")]},
        "4": {"messages": [turn("y", "q"), turn("x", "r")]},
    }
    rows = parse_conversations(content, 10)
    assert [[(m["role"], m["content"]) for m in row["messages"]] for row in rows] == [
        [("user", "Hello you"), ("assistant", "Hi")],
        [("user", "q"), ("assistant", "r")],
    ]
    assert len(parse_conversations(content, 1)) == 1


def test_pictures_are_chosen_drawn_and_named(tmp_path):
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><rect width="9" height="9"/></svg>'
    animals = dict(zip(("1F400", "1F401", "1F402", "1F403"), ("cat", "dog", "cow", "hen"), strict=True))
    entry = {"group": "animals-nature", "subgroups": "animal-mammal", "skintone": ""}
    entries = [entry | {"hexcode": code, "annotation": name} for code, name in animals.items()]
    flag = {"hexcode": "1F3F4", "annotation": "black flag", "group": "flags", "subgroups": "flag", "skintone": ""}
    entries.append(flag)
    files = {"package/data/openmoji.json": json.dumps(entries)}
    files |= {f"package/color/svg/{code}.svg": svg for code in animals}
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    captions = choose_captions(read_index(tmp_path / "a.tgz"), 2)
    assert [caption.text for caption in captions] == ["cat", "cow"]
    assert [caption.kind for caption in captions] == ["animal"] * 2
    everything = choose_captions(read_index(tmp_path / "a.tgz"), 9, with_flags=True)
    assert [caption.text for caption in everything] == [*animals.values(), "black flag"]
    draw_pictures(tmp_path / "a.tgz", captions, tmp_path, 96)
    assert (tmp_path / "images/1F402.png").read_bytes()[16:24] == b"\0\0\0\x60\0\0\0\x60"
    assert write_csv(captions) == "image,caption\nimages/1F400.png,cat\nimages/1F402.png,cow\n"
    row = json.loads(write_messages(captions).splitlines()[1])
    assert row["messages"][0]["content"][0] == {"type": "image", "image": "images/1F402.png"}
    assert row["messages"][1] == {"role": "assistant", "content": "cow"}


def test_stamps_are_read_drawn_and_asked_about(tmp_path):
    animals = tmp_path / "stamps/animals"
    animals.mkdir(parents=True)
    Image.new("RGBA", (300, 150)).save(animals / "cow.png")
    Image.new("P", (20, 40)).save(animals / "hen.png")
    (animals / "cow.txt").write_text("A cow.\nde.utf8=Eine Kuh.\n")
    (animals / "hen.txt").write_text("A hen.\n")
    # Without a picture, and without a sentence in English.
    (animals / "ox.txt").write_text("An ox.\n")
    Image.new("RGB", (9, 9)).save(animals / "yak.png")
    (animals / "yak.txt").write_text("de.utf8=Ein Yak.\n")
    stamps = read_stamps(tmp_path / "stamps")
    assert [(stamp.name, stamp.text) for stamp in stamps] == [("animals-cow", "A cow."), ("animals-hen", "A hen.")]
    assert [stamp.kind for stamp in stamps] == ["animal"] * 2
    assert replace(stamps[0], folders=("animals", "birds", "cartoon")).kind == "bird"
    before = hash_stamps(stamps)
    (animals / "cow.png").write_bytes((animals / "cow.png").read_bytes() + b"0")
    assert hash_stamps(stamps) != before
    draw_stamps(stamps, tmp_path, 128)
    assert [Image.open(tmp_path / stamp.file_name).size for stamp in stamps] == [(128, 64), (20, 40)]
    row = json.loads(write_messages(stamps, "Which?", lambda stamp: stamp.name).splitlines()[0])
    assert row["messages"][0]["content"][1] == {"type": "text", "text": "Which?"}
    assert row["messages"][1]["content"] == "animals-cow"


def test_no_caption_is_on_both_sides():
    captions = [Caption(f"{k:04X}", text) for k, text in enumerate(["cat", "Cat", "dog", "dog", "cow", "hen", "hen"])]
    for num_held_out in range(len(captions)):
        train, held_out = split_captions(captions, num_held_out)
        assert not {caption.text.lower() for caption in train} & {caption.text.lower() for caption in held_out}
        assert len(held_out) <= num_held_out
        assert sorted(c.hexcode for c in train + held_out) == [c.hexcode for c in captions]


def paint(*stripes):
    """Stripes of eight pixels each, from left to right."""
    picture = Image.new("RGBA", (8 * len(stripes), 8))
    for place, colour in enumerate(stripes):
        picture.paste(colour, (8 * place, 0, 8 * place + 8, 8))
    return picture


def test_colours_are_named_most_first_and_outlines_and_holes_are_not():
    assert name_colours(paint("#ea5a47", "#ea5a47", "#b1cc33", "#92d3f5")) in ("red and green", "red and blue")
    assert name_colours(paint("#fcea2b", "black", "black", (0, 0, 0, 0))) == "yellow"
    assert name_colours(paint("black", (255, 0, 0, 0))) == "black"
    assert name_colours(paint("#a57939", "#6a462f", "white")) == "brown and white"
    assert name_colours(paint("#9b9b9a", "#3f3f3f", "#8967aa")) == "grey and purple"


def test_a_training_picture_that_is_held_out_too_is_left_out(tmp_path):
    captions = [Caption(f"{k:04X}", f"thing {k}", "tool") for k in range(6)]
    (tmp_path / "images").mkdir()
    for k, caption in enumerate(captions):
        paint("red" if k % 2 else "blue", (0, 0, k, 255)).save(tmp_path / caption.file_name)
    twin = split_captions(captions, 2)[1][0]
    other = split_captions(captions, 2)[0][0]
    (tmp_path / other.file_name).write_bytes((tmp_path / twin.file_name).read_bytes())
    write_captions(captions, 2, tmp_path)
    train, held_out = (
        [json.loads(line)["messages"] for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "validation")
    )
    assert (len(train), len(held_out)) == (3, 2)
    assert other.file_name not in {user["content"][0]["image"] for user, _ in train}
    colour = "red" if captions.index(twin) % 2 else "blue"
    assert held_out[0][1]["content"] == f"a {colour} tool"


def test_parts_of_an_answer_are_counted():
    references = ["a red and blue body part", "an orange fruit", "a blue hand"]
    pairs = list(zip(["a red body part", " an orange fruit", "man with hat"], references, strict=True))
    assert {name: count_right(pairs, part) for name, part in PARTS.items()} == {
        "the main colour": 2,
        "all colours": 1,
        "the kind": 2,
        "all": 1,
    }
    assert PARTS["the kind"]("a red flag on a white flag") == "flag on a white flag"
    assert PARTS["the kind"]("person with a red hat") == "person with a red hat"
    assert [count_commonest([*references, "a red hand"], part) for part in PARTS.values()] == [2, 1, 2, 1]
