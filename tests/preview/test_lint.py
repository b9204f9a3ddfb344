"""Every note, by tokens that deserve it."""

import numpy as np
import pytest

from vlmforge.data.ledger import Ledger
from vlmforge.data.media import Media
from vlmforge.data.sample import ImageSpan, RenderedSample
from vlmforge.models.tokenizer import build_byte_tokenizer
from vlmforge.preview.lint import Linter, find_runs, find_step_notes

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer():
    made = build_byte_tokenizer()
    made.add_special_tokens({"bos_token": "<s>", "unk_token": "<unk>"})
    made.chat_template = CHATML
    return made


def note(tokenizer, text, labels="assistant", was_truncated=False):
    """Notes about a text whose trained parts stand in [[ and ]]."""
    ids, trained = [], []
    for part in text.split("[["):
        inside, _, outside = part.rpartition("]]")
        for piece, is_trained in ((inside, True), (outside, False)):
            tokens = tokenizer(piece, add_special_tokens=False)["input_ids"] if piece else []
            ids += tokens
            trained += [is_trained] * len(tokens)
    notes = Linter(tokenizer, labels).check("a#1", np.array(ids), np.array(trained), was_truncated=was_truncated)
    assert all(str(found).startswith("a#1: ") for found in notes)
    return [found.text for found in notes]


@pytest.mark.parametrize(
    "text", ["Why?[[So.<|im_end|>]]\n", "Why?[[So.<|im_end|>\n]]", "[[So.<|im_end|>]]a[[b<|im_end|>]]"]
)
def test_a_good_sample_has_no_note(tokenizer, text):
    assert note(tokenizer, text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Why? So.", "nothing of it is trained"),
        ("Why?[[So.]]<|im_end|>", "its end marker is not trained"),
        ("[[So.]]<|im_end|>\n[[Yes.<|im_end|>]]", "its end marker is not trained"),
        ("Why?[[So.<|im_end|>not<|im_end|>]]", "stands inside an answer"),
        ("Why?[[So.<|im_end|><|im_end|>]]", "twice at its end"),
        ("Why?[[ \n<|im_end|>]]", "an answer without content"),
        ("<s><s>Why?[[So.<|im_end|>]]", "begins with <s> twice"),
        ("W<unk><unk>?[[So.<|im_end|>]]", "2 of its tokens are <unk>"),
        ("<image>Why?[[So.</s><|im_end|>]]", "</s>, <image> stands there as ordinary text"),
        ("na\ufffdve[[So.<|im_end|>]]", "U+FFFD"),
    ],
)
def test_a_fault_gets_its_note_and_no_other(tokenizer, text, expected):
    (found,) = note(tokenizer, text)
    assert expected in found


def test_a_cut_sample_is_told(tokenizer):
    assert "its end was cut off to fit stage.seq_len" in note(tokenizer, "Why?[[So]]", was_truncated=True)


def test_with_labels_all_only_the_last_end_counts(tokenizer):
    assert note(tokenizer, "[[a<|im_end|>\nb<|endoftext|>]]", labels="all") == []
    assert "not trained" in note(tokenizer, "[[a<|im_end|>\nb]]", labels="all")[0]


def test_twins_and_a_date_in_the_template_are_told(tokenizer):
    def sample(index: int, first: int, picture: str) -> RenderedSample:
        ids = np.array([first, 2, 3], dtype=np.int32)
        span = ImageSpan(1, 1, (1, 1, 1), Media(None, picture, f"a#{index}"))
        return RenderedSample(ids, ids > 2, "a", index, images=(span,))

    samples = [sample(1, 1, "x.png"), sample(2, 4, "x.png"), sample(3, 1, "y.png"), sample(7, 1, "x.png")]
    told = [str(n) for n in find_step_notes(Ledger(), samples, tokenizer)]
    assert told == ["2 samples of this step are the same: a#1, a#7"]
    dated = build_byte_tokenizer()
    dated.chat_template = "{{ strftime_now('%d %b %Y') }}"
    (found,) = find_step_notes(Ledger(), samples[:2], dated)
    assert "strftime_now" in str(found)


def test_runs_are_found_at_both_ends():
    assert find_runs(np.array([1, 1, 0, 1, 0, 0, 1], bool)) == [(0, 2), (3, 4), (6, 7)]
    assert find_runs(np.array([0, 0], bool)) == []


@pytest.mark.parametrize(
    ("ids", "trained", "images", "expected"),
    [
        ([9, 9, 9, 5], [0, 0, 0, 1], [(0, 3)], None),
        ([5, 9, 9, 5], [0, 0, 0, 1], [(1, 3), (4, 7)], "image 2 is cut: 0 of its 3 tokens are there"),
        ([9, 9, 9, 5], [0, 0, 0, 1], [(0, 2)], "1 image tokens belong to no image"),
        ([5, 9, 9, 5], [0, 0, 1, 1], [(1, 3)], "tokens of an image are trained"),
    ],
)
def test_pictures_that_are_not_whole_or_trained_are_told(tokenizer, ids, trained, images, expected):
    notes = Linter(tokenizer, "all", placeholder_id=9).check("a#1", np.array(ids), np.array(trained, bool), images)
    found = [note.text for note in notes if "end marker" not in note.text]
    assert [text[: len(expected or "")] for text in found] == ([expected] if expected else [])
