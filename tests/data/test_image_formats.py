"""Rows with pictures, laid out as the data sets and trainers that people come from lay them out."""

import json

import pytest

from vlmforge.data.builtin import BUILTINS
from vlmforge.data.builtin_images import draw_picture
from vlmforge.data.formats import FORMATS
from vlmforge.data.formats.base import Guidance
from vlmforge.data.prompts import load_prompts
from vlmforge.data.sample import Place, content_text
from vlmforge.errors import DataError

PLACE = Place("s", 4, "shard.tar sample 4", media_root="/root")
PROMPTS = load_prompts(None)


def parse(format, row, key="", seed="0/1", **subflavors):
    return FORMATS[format].parse(row, {}, PLACE, Guidance(seed, key, subflavors, PROMPTS))


def shown(sample):
    """Turns as (role, text with a mark where each picture or film stands, by its path)."""
    turns = []
    for turn in sample.messages:
        content = turn["content"]
        if not isinstance(content, str):
            parts = (
                part["text"] if part["type"] == "text" else f"[{part['type']} {part[part['type']].path}]"
                for part in content
            )
            content = "".join(parts)
        turns.append((turn["role"], content))
    return turns


def problem_of(format, row, **keys):
    with pytest.raises(DataError) as caught:
        parse(format, row, **keys)
    (problem,) = caught.value.problems
    assert problem.where == "shard.tar sample 4 (sample s#4)"
    return problem.what, caught.value.kind


LLAVA = {
    "id": "1",
    "image": "coco/a.jpg",
    "conversations": [{"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": "A cat"}],
}


def test_llava_rows_have_their_picture_where_the_tag_stands():
    assert shown(parse("llava", LLAVA)) == [("user", "What?\n[image /root/coco/a.jpg]"), ("assistant", "A cat")]


def test_llava_rows_without_a_tag_or_without_a_picture():
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A cat"}]
    before = parse("llava", {"conversations": turns, "image": ["a.jpg", "b.jpg"]})
    assert shown(before)[0] == ("user", "[image /root/a.jpg][image /root/b.jpg]\nWhat?")
    assert shown(parse("llava", {"conversations": turns})) == [("user", "What?"), ("assistant", "A cat")]


def test_sharegpt_rows_have_pictures_films_tools_and_calls():
    call = {"name": "look", "arguments": {"at": "x"}}
    row = {
        "conversations": [
            {"from": "human", "value": "<image>Compare<image> with <video>"},
            {"from": "function_call", "value": json.dumps(call)},
            {"from": "observation", "value": "seen"},
            {"from": "gpt", "value": "Same"},
        ],
        "images": ["a.png", {"bytes": None, "path": "/b.png"}],
        "videos": ["c.mp4"],
        "system": "Be brief.",
        "tools": json.dumps([{"name": "look"}]),
    }
    sample = parse("sharegpt", row)
    assert shown(sample) == [
        ("system", "Be brief."),
        ("user", "[image /root/a.png]Compare[image /b.png] with [video /root/c.mp4]"),
        ("assistant", ""),
        ("tool", "seen"),
        ("assistant", "Same"),
    ]
    assert sample.messages[2]["tool_calls"] == [{"type": "function", "function": call}]
    assert sample.tools == ({"name": "look"},)


@pytest.mark.parametrize("image", [{"bytes": b"png", "path": None}, {"image": "x.png"}, "x.png", b"png"])
def test_verl_rows_take_pictures_from_their_column_in_order(image):
    turns = [{"role": "user", "content": "<image>Look"}, {"role": "assistant", "content": "Yes"}]
    sample = parse("messages", {"messages": turns, "images": [image]})
    (media,) = sample.media()
    assert media.data == b"png" or media.path == "/root/x.png"
    assert content_text(sample.messages[0]["content"]) == "Look"


def test_empty_parts_of_messages_take_pictures_from_the_column():
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "image"}]},
        {"role": "assistant", "content": "Yes"},
    ]
    sample = parse("messages", {"messages": turns, "images": ["a.png", "b.png"]})
    assert shown(sample)[0] == ("user", "[image /root/a.png]and[image /root/b.png]")
    assert problem_of("messages", {"messages": turns})[0] == "the turns have 2 <image> tags, and the row has 0 images"


def test_messages_without_pictures_may_speak_of_tags():
    turns = [{"role": "user", "content": "What is <image> in SVG?"}, {"role": "assistant", "content": "<image> is ..."}]
    assert shown(parse("messages", {"messages": turns, "images": []}))[0][1] == "What is <image> in SVG?"


@pytest.mark.parametrize(
    ("row", "words", "kind"),
    [
        (LLAVA | {"image": ["a", "b"]}, "have 1 <image> tags, and the row has 2 images", "wrong_type"),
        (LLAVA | {"image": None}, "have 1 <image> tags, and the row has 0 images", "wrong_type"),
        (LLAVA | {"image": 3}, "image is of type int, neither a path nor bytes", "wrong_type"),
        (LLAVA | {"image": "https://x/a.png"}, "is an address on the network", "refused_address"),
        (LLAVA | {"conversations": []}, "is an empty list", "empty"),
        (LLAVA | {"conversations": [{"from": "bot", "value": "x"}]}, "from = 'bot' must be human, gpt", "wrong_type"),
        (LLAVA | {"conversations": [{"from": ["human"], "value": "x"}]}, "from = ['human'] must be", "wrong_type"),
        (LLAVA | {"conversations": [{"from": "gpt", "value": " "}]}, "is empty, and it is an answer", "empty"),
        (
            LLAVA | {"conversations": [{"from": "gpt", "value": "<image>"}]},
            "assistant turn contains <image>",
            "wrong_type",
        ),
    ],
)
def test_a_row_that_does_not_fit_is_told_with_its_kind(row, words, kind):
    what, found = problem_of("llava", row)
    assert words in what
    assert found == kind


def test_captions_are_asked_for_by_a_prompt_of_the_list():
    sample = parse("captioning", {"image": "a.png", "caption": " A cat \n"})
    (role, question), answer = shown(sample)
    assert role == "user"
    assert question.startswith("[image /root/a.png]\n")
    assert question.endswith("\n")
    assert question.split("\n")[1] in PROMPTS["CaptioningPretraining"]["raw"]
    assert answer == ("assistant", "A cat")


def test_a_prompt_depends_on_the_seed_alone_and_all_of_them_come():
    row = {"image": "a.png", "caption": "A cat"}
    asked = [shown(parse("captioning", row, seed=f"0/{n}"))[0][1] for n in range(200)]
    assert asked == [shown(parse("captioning", row, seed=f"0/{n}"))[0][1] for n in range(200)]
    assert len(set(asked)) == len(PROMPTS["CaptioningPretraining"]["raw"])


def test_split_by_line_takes_one_line_of_a_caption():
    row = {"image": "a.png", "caption": "one\n\ntwo\nthree"}
    answers = {shown(parse("captioning", row, seed=str(n), SplitByLine=True))[1][1] for n in range(60)}
    assert answers == {"one", "two", "three"}


def test_questions_are_routed_by_key_and_subflavor():
    row = {"image": "a.png", "context": "Why?", "answers": "So"}
    system = ("system", "Answer the questions.")
    assert shown(parse("vqa", row)) == [system, ("user", "[image /root/a.png]\nWhy?"), ("assistant", "So")]
    for routed in (parse("vqa", row, key="a.tar/llava_1"), parse("vqa", row, is_llava_training=True)):
        assert shown(routed) == [("user", "[image /root/a.png]\n"), ("assistant", "So")]
    for variant, routed in (("docvqa", parse("vqa", row, key="docvqa-1")), ("raw", parse("vqa", row, VQASFT=True))):
        expected = {f"[image /root/a.png]\n{text.replace('{}', 'Why?')}" for text in PROMPTS["VQASFT"][variant]}
        assert shown(routed)[1][1] in expected
    tagged = parse("vqa", row | {"context": "Why <image>?"})
    assert shown(tagged)[1] == ("user", "Why [image /root/a.png]?")
    assert shown(parse("vqa", row, has_video=True))[1] == ("user", "[video /root/a.png]\nWhy?")


def test_answers_come_as_often_as_their_weights_say():
    row = {"image": "a.png", "context": "Why?", "answers": ["a", "b", "c"], "answer_weights": [3, 1, 0]}
    answers = [shown(parse("vqa", row, seed=str(n)))[2][1] for n in range(2000)]
    assert answers.count("c") == 0
    assert abs(answers.count("a") / 2000 - 0.75) < 0.04


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, float("inf")], "1", ["a", "b"]])
def test_weights_that_do_not_fit_are_refused(weights):
    row = {"image": "a.png", "context": "Why?", "answers": ["a", "b"], "answer_weights": weights}
    assert "must be 2 numbers" in problem_of("vqa", row)[0]


def test_multiple_choice_is_answered_by_a_letter():
    row = {"image": "a.png", "context": "Which?", "choices": ["cat", "dog"], "correct_choice_idx": "1"}
    _, (_, question), answer = shown(parse("multi_choice_vqa", row))
    assert question.startswith("[image /root/a.png]\nWhich?\nA. cat\nB. dog\n")
    assert answer == ("assistant", "B")
    assert "must be a number from 0 to 1" in problem_of("multi_choice_vqa", row | {"correct_choice_idx": 2})[0]


def test_ocr_is_asked_by_key():
    row = {"image": "a.png", "text": "one <image>\ntwo", "words_boxes": [1, 2, 3, 4]}
    region = "<box>(1,2),(3,4)</box>"
    page = shown(parse("ocr", row, key="pdfa/1"))
    assert page[2][1] == "one \ntwo"
    assert page[1][1].split("\n")[1] in PROMPTS["DocPretraining"]["raw"]
    assert shown(parse("ocr", row, key="pdfa/1", SplitByLine=True))[2][1] in ("one", "two")
    assert shown(parse("ocr", row, key="multi"))[2][1] == f"<ref>one \ntwo</ref>{region}"
    many = row | {"words_boxes": [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8]], "words_text": ["x", "y"]}
    quad = "<quad>(1,2),(3,4),(5,6),(7,8)</quad>"
    assert shown(parse("ocr", many, key="multi"))[2][1] == f"<ref>x</ref>{region}<ref>y</ref>{quad}"
    answers = [shown(parse("ocr", row, seed=str(n)))[2][1] for n in range(100)]
    assert set(answers) == {region, "one \ntwo"}
    assert 30 < answers.count(region) < 70
    assert "is not 4 or 8 numbers" in problem_of("ocr", row | {"words_boxes": [1, 2]})[0]


def turns_of(*texts):
    speakers = ("human", "gpt")
    return {"texts": [{"from": speakers[k % 2], "value": text} for k, text in enumerate(texts)]}


@pytest.mark.parametrize(
    ("question", "images", "expected"),
    [
        ("<image>\nq", ["a"], "[a]\nq"),
        ("<image-2> <image-1> <image-2>", ["a", "b"], "[b] [a] [b]"),
        ("<image> <image>", ["a"], "[a] [a]"),
        ("<image>q", [], "q"),
        ("q", ["a", "b"], "[a][b]\nq"),
        ("q<image>", ["a", "b"], "[a]\nq[b]"),
    ],
)
def test_interleaved_conversations_follow_the_rules_of_megatron(question, images, expected):
    sample = parse("similarity_interleaved", turns_of(question, "yes") | {"images": images})
    system, user, answer = shown(sample)
    assert system == ("system", "Answer the questions.")
    assert user[1].replace("image /root/", "") == expected
    assert answer == ("assistant", "yes")


def test_interleaved_conversations_that_break_the_rules_are_told():
    row = turns_of("<image> <image> <image>", "yes") | {"images": ["a", "b"]}
    assert "have 3 <image> tags, and the row has 2 images" in problem_of("similarity_interleaved", row)[0]
    row = turns_of("<image-3>", "yes") | {"images": ["a", "b"]}
    assert "<image-3> is asked for" in problem_of("similarity_interleaved", row)[0]
    row = {"texts": [{"from": "system", "value": "x"}]}
    assert "must be human or gpt" in problem_of("similarity_interleaved", row)[0]


@pytest.mark.parametrize("tag", ["<video>", "<image>", ""])
def test_an_interleaved_film_stands_for_its_one_tag(tag):
    row = turns_of(f"{tag}\nq" if tag else "q", "yes") | {"images": "film.mp4"}
    assert shown(parse("similarity_interleaved", row, has_video=True))[1] == ("user", "[video /root/film.mp4]\nq")


def test_video_questions_have_a_film_and_an_answer():
    row = {"video": "film.mp4", "context": "Who?", "answers": ["she"]}
    assert shown(parse("video_qa", row))[1:] == [("user", "[video /root/film.mp4]\nWho?"), ("assistant", "she")]


def test_every_built_in_set_parses_and_its_pictures_can_be_read():
    for name, builtin in BUILTINS.items():
        format = "captioning" if builtin.format == "energon" else builtin.format
        for index in range(0, 16):
            sample = parse(format, builtin.fields(index))
            for media in sample.media():
                assert media.read_size() == media.decode().size, name


def test_drawn_pictures_differ():
    assert len({draw_picture(index) for index in range(64)}) == 64


def test_prompt_lists_of_the_user_are_read_as_megatrons_are_laid_out(tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"COMMENT": "x", "VQASFT": {"raw": ["Q: {} A:"]}}))
    own = load_prompts(str(path))
    row = {"image": "a.png", "context": "Why?", "answers": "So"}
    guidance = Guidance("0", "", {"VQASFT": True}, own)
    assert shown(FORMATS["vqa"].parse(row, {}, PLACE, guidance))[1][1].endswith("Q: Why? A:")
    with pytest.raises(DataError, match=r"has no list CaptioningPretraining.raw.*it has VQASFT.raw"):
        FORMATS["captioning"].parse({"image": "a.png", "caption": "x"}, {}, PLACE, guidance)


@pytest.mark.parametrize("content", ["[]", "{", '{"VQASFT": ["a"]}', '{"VQASFT": {"raw": "a"}}'])
def test_prompt_lists_in_another_layout_are_refused(tmp_path, content):
    path = tmp_path / "prompts.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"data.prompts = "):
        load_prompts(str(path))


def test_prompts_of_the_package_have_the_categories_and_counts_of_nvlm():
    counts = {f"{name}.{variant}": len(texts) for name, lists in PROMPTS.items() for variant, texts in lists.items()}
    assert counts == {
        "Captioning.raw": 16, "CaptioningPretraining.raw": 7, "CaptioningSFT.raw": 10, "CaptioningDetailed.raw": 10,
        "VQAPretraining.raw": 2, "VQASFT.raw": 2, "VQASFT.docvqa": 2, "VQA.raw": 5, "DocPretraining.raw": 3,
        "DocPretraining.ocr_multi": 7, "DocPretraining.md": 5, "DocPretraining.grounded_ocr": 4,
        "DocPretraining.referring_grounding": 3, "OCR.raw": 5, "OCR.markdown": 5, "OCR.table_markdown": 4,
        "OCR.plain": 5, "OCR.bbox_plain": 4, "Embedded.raw": 5,
    }  # fmt: skip
