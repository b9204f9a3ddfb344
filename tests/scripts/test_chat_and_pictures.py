"""What the scripts make of packages that are not fetched here: conversations and captions."""

import io
import json
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from chitchat import parse_conversations
from openmoji import Caption, choose_captions, draw_pictures, read_index, split_captions, write_csv, write_messages
from PIL import Image
from stamps import QUESTION, draw_stamps, hash_stamps, read_stamps


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
    entry = {"group": "animals-nature", "skintone": ""}
    entries = [entry | {"hexcode": code, "annotation": name} for code, name in animals.items()]
    entries.append({"hexcode": "1F3F4", "annotation": "black flag", "group": "flags", "skintone": ""})
    files = {"package/data/openmoji.json": json.dumps(entries)}
    files |= {f"package/color/svg/{code}.svg": svg for code in animals}
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    captions = choose_captions(read_index(tmp_path / "a.tgz"), 2)
    assert [caption.text for caption in captions] == ["cat", "cow"]
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
    before = hash_stamps(stamps)
    (animals / "cow.png").write_bytes((animals / "cow.png").read_bytes() + b"0")
    assert hash_stamps(stamps) != before
    draw_stamps(stamps, tmp_path, 128)
    assert [Image.open(tmp_path / stamp.file_name).size for stamp in stamps] == [(128, 64), (20, 40)]
    row = json.loads(write_messages(stamps, QUESTION).splitlines()[0])
    assert row["messages"][0]["content"][1] == {"type": "text", "text": QUESTION}


def test_no_caption_is_on_both_sides():
    captions = [Caption(f"{k:04X}", text) for k, text in enumerate(["cat", "Cat", "dog", "dog", "cow", "hen", "hen"])]
    for num_held_out in range(len(captions)):
        train, held_out = split_captions(captions, num_held_out)
        assert not {caption.text.lower() for caption in train} & {caption.text.lower() for caption in held_out}
        assert len(held_out) <= num_held_out
        assert sorted(c.hexcode for c in train + held_out) == [c.hexcode for c in captions]
