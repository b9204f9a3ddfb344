"""Pictures and films anywhere among words: every label stays on its token, every picture in its place."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmforge.config.chat_templates import CHAT_TEMPLATES
from vlmforge.data.draw import draw_square
from vlmforge.data.film import Film
from vlmforge.data.images import fit_length
from vlmforge.data.media import Media
from vlmforge.data.prompt import render_request
from vlmforge.data.render import Renderer
from vlmforge.data.sample import ImageSpan, Place, Sample
from vlmforge.models.tokenizer import build_byte_tokenizer

PLACE = Place("s", 0, "file.jsonl:1")
TEMPLATES = ["chatml", "qwen2p5", "llama3p1", "mistral"]
# Widths of one and two digits, which become so many tokens.
PICTURES = {width: Media(draw_square(width, 8, (0, 0, 0)), None, f"{width} wide") for width in (8, 9, 13)}


class Layout(NamedTuple):
    ids: tuple[int, ...]
    grid: tuple[int, int, int]
    lead: str = ""


@dataclass(frozen=True)
class WidthRule:
    """A picture is as many tokens as it is pixels wide."""

    placeholder_id: int
    num_frames: int = 2
    frame_shrinks: int = 0
    tag_ids: frozenset[int] = frozenset()
    masks_next: bool = False
    join = None

    def measure(self, width, height):
        return Layout((self.placeholder_id,) * width, (1, 1, width))


def media_of(part):
    """The picture, or the first and last of a film."""
    if part["type"] == "image":
        return [part["image"]]
    pictures = part["video"].pictures
    return pictures if len(pictures) < 2 else (pictures[0], pictures[-1])


@pytest.fixture(scope="module")
def tokenizer():
    made = build_byte_tokenizer()
    made.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": ["<|eot_id|>"]})
    return made


texts = st.text("ab \n\u00e9", min_size=1, max_size=6).map(lambda text: {"type": "text", "text": text})
images = st.sampled_from(sorted(PICTURES)).map(lambda width: {"type": "image", "image": PICTURES[width]})
parts = st.one_of(
    images,
    st.lists(st.sampled_from(sorted(PICTURES)), min_size=1, max_size=3).map(
        lambda widths: {"type": "video", "video": Film("film", pictures=tuple(PICTURES[width] for width in widths))}
    ),
    texts,
)
questions = st.lists(parts, min_size=1, max_size=5).map(lambda found: ({"type": "text", "text": "q"}, *found))
answers = st.lists(images | texts, max_size=3).map(
    lambda found: ({"type": "text", "text": "a"}, *found, {"type": "text", "text": "z"})
)


def write_answer(said, template, tokenizer):
    """An answer as its turn has it, and what is trained of it; the other templates refuse pictures in answers."""
    kept = [part for part in said if part["type"] == "text" or template == "chatml"]
    tags = "".join(str(getattr(tokenizer, f"vision_{name}_token", "")) for name in ("bos", "eos"))
    trained = "".join(part.get("text", tags) for part in kept)
    return (tuple(kept) if template == "chatml" else trained), trained


@settings(max_examples=25, deadline=None)
@given(turns=st.lists(st.tuples(questions, answers), min_size=1, max_size=3))
@pytest.mark.parametrize("template", TEMPLATES)
def test_labels_and_pictures_keep_their_places(tokenizer, template, turns):
    ours = CHAT_TEMPLATES[f"builtin:{template}"]
    tokenizer.chat_template = ours.text
    rule = WidthRule(tokenizer.convert_tokens_to_ids("<|image_pad|>"))
    turns = [(asked, *write_answer(said, template, tokenizer)) for asked, said in turns]
    messages = [
        turn
        for asked, said, _ in turns
        for turn in ({"role": "user", "content": asked}, {"role": "assistant", "content": said})
    ]
    renderer = Renderer(tokenizer, labels="assistant", seq_len=4096, image_rule=rule)
    sample = renderer.render(Sample(PLACE, messages=tuple(messages)))
    ids = sample.input_ids.tolist()

    contents = [turn["content"] for turn in messages if not isinstance(turn["content"], str)]
    parts = [part for content in contents for part in content if part["type"] != "text"]
    widths = [media.read_size()[0] for part in parts for media in media_of(part)]
    assert [span.num_tokens for span in sample.images] == widths
    inside = {k for span in sample.images for k in range(span.start, span.stop)}
    assert {k for k, token in enumerate(ids) if token == rule.placeholder_id} == inside
    assert not any(sample.is_label[k] for k in inside)

    marker = {"llama3p1": "<|eot_id|>", "mistral": tokenizer.eos_token}.get(template, "<|im_end|>")
    ends = marker + "\n" * ours.trains_line_end
    trained = tokenizer.decode([token for token, is_label in zip(ids, sample.is_label, strict=True) if is_label])
    assert trained == "".join(" " * (template == "mistral") + said + ends for *_, said in turns)

    for k in range(1, len(messages), 2):
        prompt = render_request(messages[:k], tokenizer, rule, PLACE)
        assert ids[: len(prompt.ids)] == list(prompt.ids)
        assert sample.images[: len(prompt.images)] == prompt.images
        assert sample.is_label[len(prompt.ids)]


@pytest.mark.parametrize("has_own_tags", [False, True])
def test_a_picture_is_cut_off_with_its_tags_and_without_those_of_its_neighbour(has_own_tags):
    first, last, picture = 7, 8, 5
    ids = [1, first, picture, picture, last, first, picture, last, 2]
    places = [(1, 4), (5, 3)] if has_own_tags else [(2, 2), (6, 1)]
    spans = [ImageSpan(*place, (1, 1, 1), PICTURES[8]) for place in places]
    kept = [fit_length(ids, spans, frozenset({first, last}), most) for most in range(1, len(ids))]
    assert kept == [1, 1, 1, 1, 5, 5, 5, 8]
