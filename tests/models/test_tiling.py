"""Tiles, tags and labels of stitched models, with the numbers of Megatron's multimodal training."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
import torch
from PIL import Image
from tests.support.tiny import stitched_fields
from transformers import PreTrainedTokenizerBase

from vlmforge.config.schema import ImageConfig, ModelConfig
from vlmforge.data.images import Measured, expand_images, list_rules, shrink
from vlmforge.data.media import Media
from vlmforge.data.render import Renderer
from vlmforge.data.sample import Place, Sample
from vlmforge.errors import ConfigError
from vlmforge.models.image_types import ImageLayout
from vlmforge.models.images import build_image_rule
from vlmforge.models.stitched_images import prepare_tokenizer
from vlmforge.models.tiling import StitchedImageProcessor, choose_by_area, choose_closest, list_grids, name_tiles
from vlmforge.models.tokenizer import build_byte_tokenizer, build_tokenizer

# Width and height to (columns, rows): closest of 6 tiles of 448, closest of 12 of 512, area-weighted of 12 of 512.
GRIDS = {
    (300, 300): ((1, 1), (1, 1), (1, 1)),
    (448, 448): ((1, 1), (1, 1), (1, 1)),
    (512, 512): ((1, 1), (1, 1), (1, 1)),
    (896, 448): ((2, 1), (2, 1), (2, 1)),
    (448, 896): ((1, 2), (1, 2), (1, 2)),
    (640, 480): ((3, 2), (4, 3), (4, 3)),
    (800, 600): ((3, 2), (4, 3), (4, 3)),
    (1024, 768): ((3, 2), (4, 3), (4, 3)),
    (600, 800): ((2, 3), (3, 4), (3, 4)),
    (1920, 1080): ((2, 1), (4, 2), (4, 2)),
    (633, 633): ((1, 1), (1, 1), (1, 1)),
    (900, 900): ((2, 2), (2, 2), (2, 2)),
    (1024, 1024): ((2, 2), (2, 2), (2, 2)),
    (1344, 896): ((3, 2), (3, 2), (3, 2)),
    (1700, 2200): ((2, 3), (3, 4), (3, 4)),
    (4000, 1000): ((4, 1), (4, 1), (6, 2)),
}


def test_pictures_get_the_grids_of_upstream() -> None:
    assert (len(list_grids(6)), len(list_grids(12))) == (14, 35)
    for (width, height), grids in GRIDS.items():
        found = (
            choose_closest(width, height, 6, 448),
            choose_closest(width, height, 12, 512),
            choose_by_area(width, height, 12, 512),
        )
        assert found == grids, (width, height)


def test_a_picture_is_cut_row_by_row_with_the_whole_at_the_end() -> None:
    processor = StitchedImageProcessor(tile_size=4, max_tiles=6, image_mean=(0, 0, 0), image_std=(1, 1, 1))
    picture = Image.new("RGB", (12, 8))
    colours = [(40 * row, 80 * column, 7) for row in range(2) for column in range(3)]
    for number, colour in enumerate(colours):
        picture.paste(colour, (number % 3 * 4, number // 3 * 4, number % 3 * 4 + 4, number // 3 * 4 + 4))
    made = processor.preprocess([picture, picture.resize((4, 4))])
    assert made["num_tiles"] == [7, 1]
    assert made["pixel_values"].shape == (8, 3, 4, 4)
    for tile, colour in zip(made["pixel_values"], colours, strict=False):
        assert tile[:, 1, 1].mul(255).round().tolist() == list(colour)
    assert torch.equal(made["pixel_values"][6], made["pixel_values"][7])
    processor.thumbnail = False
    assert processor.preprocess(picture)["num_tiles"] == [6]


def test_pixels_are_normalised_once() -> None:
    processor = StitchedImageProcessor(tile_size=2, image_mean=(0.25, 0.5, 0.5), image_std=(0.5, 0.25, 0.5))
    pixels = processor.preprocess(Image.new("RGB", (2, 2), (255, 0, 51)))["pixel_values"]
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([1.5, -2.0, -0.6]))


def test_tags_have_a_digit_more_from_ten_tiles_on() -> None:
    assert name_tiles("default", 6) == (tuple(f"<tile_{n}>" for n in range(1, 7)), "<tile_global_thumbnail>")
    numbered, last = name_tiles("default", 12)
    assert (numbered[0], numbered[11], last) == ("<tile_01>", "<tile_12>", "<tile_global_thumbnail0>")
    assert [name_tiles("yi", most)[1] for most in (6, 12)] == ["<tile_global>", "<tile_global0>"]
    assert name_tiles("llama3p1", 12)[1] == "<tile_global_thumbnail>"


TAGS = ("<tile_1>", "<tile_2>", "<tile_3>", "<tile_4>", "<tile_global_thumbnail>")


def model_of(**image: Any) -> ModelConfig:
    return ModelConfig(
        family="stitched",
        config=stitched_fields("clip", "llama"),
        init="random",
        tokenizer="builtin:bytes",
        chat_template="builtin:qwen2p0",
        image=ImageConfig(**image),
    )


def rule_of(**image: Any) -> tuple[PreTrainedTokenizerBase, Any]:
    model = model_of(**image)
    tokenizer = build_tokenizer(model)
    return tokenizer, build_image_rule(model, tokenizer)


def test_each_tile_stands_behind_its_tag_and_a_single_one_behind_the_thumbnails() -> None:
    tokenizer, rule = rule_of(max_tiles=4, tile_tags="default", special_tokens=("<image>", *TAGS))
    first, second, _, _, whole = tokenizer.convert_tokens_to_ids(list(TAGS))
    features = [264] * 4
    assert list(rule.measure(64, 32).ids) == [first, *features, second, *features, whole, *features]
    assert list(rule.measure(32, 32).ids) == [whole, *features]
    # Fewer tiles keep their names.
    assert list(rule.shrink().measure(64, 32).ids) == list(rule.measure(64, 32).ids)
    assert list(rule.shrink().shrink().measure(64, 32).ids) == [whole, *features]


def test_tags_of_different_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="the tags of tiles have 8 to 23 tokens"):
        rule_of(max_tiles=4, tile_tags="default")


@pytest.mark.parametrize(
    ("kind", "special", "text"),
    [
        ("none", ("<image>",), "<image>"),
        ("nvlm", ("<image>",), "<Image><image></Image>"),
        ("internvl", ("<image>", "<img>", "</img>"), "<img><image></img>"),
    ],
)
def test_a_picture_stands_between_its_tags(kind: str, special: tuple[str, ...], text: str) -> None:
    tokenizer, rule = rule_of(image_tag=kind, special_tokens=special)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]}
    assert tokenizer.apply_chat_template([turn], tokenize=False) == f"<|im_start|>user\n{text}Hi<|im_end|>\n"
    assert rule.tag_ids == frozenset({265, 266} if kind == "internvl" else ())
    ids = tokenizer("<Image>")["input_ids"]
    assert len(ids) == 7, "plain text, not a token"
    # Prepared twice, as when a saved tokenizer is loaded, it is the same.
    template = tokenizer.chat_template
    prepare_tokenizer(tokenizer, rule.processor)
    assert tokenizer.chat_template == template


def test_special_tokens_are_added_all_or_none() -> None:
    tokenizer = build_byte_tokenizer()
    words = ["<image>", "<img>", "</img>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]
    prepare_tokenizer(tokenizer, StitchedImageProcessor(special_tokens=words))
    assert tokenizer.convert_tokens_to_ids(words) == list(range(264, 273))
    # What an answer may hold is shown.
    text = tokenizer.decode(tokenizer("<image><box>a</box>")["input_ids"], skip_special_tokens=True)
    assert text == "<box>a</box>"
    with pytest.raises(ConfigError, match="has <image> and lacks <new>"):
        prepare_tokenizer(tokenizer, StitchedImageProcessor(special_tokens=["<image>", "<new>"]))


def test_a_template_that_drops_pictures_is_refused(tmp_path: Any) -> None:
    template = tmp_path / "plain.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    model = ModelConfig(**{**vars(model_of()), "chat_template": str(template)})
    with pytest.raises(ConfigError, match="does not write a picture as <image>"):
        build_image_rule(model, build_tokenizer(model))


def test_ids_that_do_not_fit_the_model_are_refused() -> None:
    model = ModelConfig(**{**vars(model_of()), "config": {**stitched_fields("clip", "llama"), "image_token_id": 270}})
    with pytest.raises(ConfigError, match="<image> has the id 264"):
        build_image_rule(model, build_tokenizer(model))
    words = ("<image>", *(f"<{number}>" for number in range(24)))
    with pytest.raises(ConfigError, match="<23> has the id 288, and the language model's table has 288 rows"):
        rule_of(special_tokens=words)


def test_the_token_after_a_picture_is_not_trained() -> None:
    """Text [5, image, 6, 7, 8] with four features: shifted, the first label is that of 7, at the place of 6."""
    media = Media(b"", None, "picture")
    layout = ImageLayout((9,) * 4, (1, 1, 1))
    ids, is_label, _ = expand_images([5, 9, 6, 7, 8], [True] * 5, 9, [Measured(media, layout, 0)], masks_next=True)
    assert ids == [5, 9, 9, 9, 9, 6, 7, 8]
    # The token at t + 1 is the label of position t; what follows 8 is not in the text.
    labels = [*(ids[t + 1] if is_label[t + 1] else -100 for t in range(7)), -100]
    assert labels == [-100, -100, -100, -100, -100, 7, 8, -100]


WORKED = {
    # Where pictures stand among 1,024 tokens and their tiles; tokens in all; positions whose label is trained.
    "no picture": ((), 1024, [*range(1024)]),
    "first": (((0, 1),), 1600, [*range(577, 1600)]),
    "last": (((1023, 1),), 1600, [*range(1022)]),
    "two, of one tile and of two": (((5, 1), (9, 2)), 2753, [*range(4), 582, 583, *range(1739, 2753)]),
}


@pytest.mark.parametrize("case", WORKED)
def test_labels_are_those_of_the_systems_that_are_replaced(case: str) -> None:
    """CLIP's 577 embeddings a tile; the token at place k of the text is k, so its label is k + 1."""
    pictures, length, trained = WORKED[case]
    word = 5000
    ids = [*range(1025)]
    for place, _ in pictures:
        ids[place] = word
    media = Media(b"", None, "picture")
    measured = [Measured(media, ImageLayout((word,) * 577 * tiles, (1, 1, tiles)), 0) for _, tiles in pictures]
    expanded, is_label, spans = expand_images(ids, [True] * 1025, word, measured, masks_next=True)
    assert len(expanded) == length + 1
    inside = {k for span in spans for k in range(span.start, span.stop)}
    assert [token for k, token in enumerate(expanded) if k not in inside] == [token for token in ids if token != word]
    # The token at k + 1 is the label of position k.
    assert [k for k in range(length) if is_label[k + 1]] == trained


def test_tiles_are_taken_away_in_the_steps_of_upstream_and_a_frame_has_one() -> None:
    rule: Any
    _, rule = rule_of(max_tiles=12, num_frames=2)
    found = [one.max_tiles for one in list_rules(rule)]
    assert found == [12, 8, 6, 4, 2, 1]
    assert shrink(rule, rule.frame_shrinks).measure(400, 300).ids == (264,) * 4
    _, few = rule_of(max_tiles=6)
    assert [one.max_tiles for one in list_rules(few)] == [6, 4, 2, 1]
    assert shrink(few, few.frame_shrinks).max_tiles == 1


def test_a_sample_is_rendered_with_its_tiles() -> None:
    tokenizer, rule = rule_of(max_tiles=4, image_tag="nvlm")
    renderer = Renderer(tokenizer, labels="assistant", seq_len=512, image_rule=rule)
    file = BytesIO()
    Image.new("RGB", (64, 32)).save(file, "PNG")
    parts = ({"type": "image", "image": Media(file.getvalue(), None, "x")}, {"type": "text", "text": "\nWhat?"})
    turns = ({"role": "user", "content": parts}, {"role": "assistant", "content": "Black"})
    sample = renderer.render(Sample(Place("s", 0, "here"), messages=turns))
    text = tokenizer.decode(sample.input_ids.tolist())
    question = f"<|im_start|>user\n<Image>{'<image>' * 12}</Image>\nWhat?<|im_end|>\n"
    assert text == f"{question}<|im_start|>assistant\nBlack<|im_end|>\n"
    assert tokenizer.decode(sample.input_ids[sample.is_label].tolist()) == "Black<|im_end|>\n"
