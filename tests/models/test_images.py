"""Pictures as the families see them, against transformers' own processors and models."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.tiny import load_plain, make_base
from transformers import AutoProcessor

from vlmforge.config.schema import ImageConfig, ModelConfig
from vlmforge.data.collate import collate
from vlmforge.data.film import Film
from vlmforge.data.images import make_image_tensors
from vlmforge.data.media import Media
from vlmforge.data.prompt import render_request
from vlmforge.data.render import Renderer
from vlmforge.data.sample import Place, RenderedSample, Sample
from vlmforge.errors import ConfigError, DataError
from vlmforge.models import FAMILIES
from vlmforge.models.fusion import compute_features, stand_in
from vlmforge.models.images import build_image_rule, save_processor
from vlmforge.models.tokenizer import build_tokenizer

# What stitched models see is in `test_tiling.py`.
SEEING = [name for name, family in FAMILIES.items() if family.vision is not None and not family.parts]
BUDGET = ImageConfig(min_pixels=256, max_pixels=4096, max_tiles=4)
SIZES = [(40, 24), (16, 16), (100, 30), (7, 130), (300, 200)]


def picture(width: int, height: int) -> Media:
    """Smooth colours, so that scaling in another way would be seen and rounding would not."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([across, down, 255 - across], axis=-1).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return Media(buffer.getvalue(), None, f"{width} x {height}")


def part(medium: Any) -> dict[str, Any]:
    return {"type": "image", "image": medium} if isinstance(medium, Media) else {"type": "text", "text": medium}


def turn(role: str, *media: Any) -> dict[str, Any]:
    return {"role": role, "content": tuple(map(part, media))}


@pytest.fixture(scope="module", params=SEEING)
def seeing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A tiny model with its tokenizer, its rule, and what transformers makes of the folder."""
    folder: Path = make_base(tmp_path_factory.mktemp("seeing") / request.param, request.param)
    plain = load_plain(folder).eval()
    keys = FAMILIES[request.param].image_keys
    model = ModelConfig(pretrained=str(folder), image=ImageConfig(**{name: getattr(BUDGET, name) for name in keys}))
    tokenizer = build_tokenizer(model)
    rule = build_image_rule(model, tokenizer)
    assert rule is not None
    save_processor(folder, plain.config, tokenizer, rule)
    processor = AutoProcessor.from_pretrained(folder)
    renderer = Renderer(tokenizer, labels="assistant", seq_len=512, image_rule=rule)
    return SimpleNamespace(
        name=request.param, model=model, plain=plain, tokenizer=tokenizer, rule=rule, processor=processor, own=renderer
    )


def render(seeing: SimpleNamespace, *turns: dict[str, Any], **options: Any) -> RenderedSample:
    renderer = seeing.own
    if options:
        renderer = Renderer(seeing.tokenizer, image_rule=seeing.rule, **options)
    return renderer.render(Sample(Place("s", 4, "file.jsonl:5"), messages=turns))


def test_ids_and_pixels_are_those_of_transformers_processor(seeing: SimpleNamespace) -> None:
    media = [picture(*size) for size in SIZES]
    sample = render(seeing, turn("user", *media, "What are they?"), {"role": "assistant", "content": "Colours"})
    content = [{"type": "image"} for _ in media] + [{"type": "text", "text": "What are they?"}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "Colours"}]
    text = seeing.processor.apply_chat_template(turns, tokenize=False)
    if seeing.name == "internvl":
        # Its processor writes the tags itself, so its templates leave them out.
        text = text.replace("<|vision_start|>", "").replace("<|vision_end|>", "")
    theirs = seeing.processor(text=text, images=[medium.decode() for medium in media], return_tensors="pt")
    assert sample.input_ids.tolist() == theirs["input_ids"][0].tolist()
    ours = make_image_tensors([sample], seeing.rule)
    assert ours is not None
    assert torch.equal(ours.pixel_values, theirs["pixel_values"])
    if ours.image_grid_thw is not None:
        assert torch.equal(ours.image_grid_thw, theirs["image_grid_thw"])


def test_positions_are_those_of_transformers_model(seeing: SimpleNamespace) -> None:
    sample = render(
        seeing,
        turn("user", "First ", picture(40, 24), picture(16, 60), " or"),
        {"role": "assistant", "content": "Yes"},
        turn("user", picture(100, 30)),
        {"role": "assistant", "content": "No"},
    )
    positions = seeing.rule.positions(sample)
    assert positions[0].tolist() == list(range(sample.num_tokens))
    if not hasattr(seeing.plain.model, "get_rope_index"):
        assert len(positions) == 1
        return
    ids = torch.from_numpy(sample.input_ids).long()[None]
    images = make_image_tensors([sample], seeing.rule)
    assert images is not None
    is_image = (ids == seeing.plain.config.image_token_id).int()
    expected, _ = seeing.plain.model.get_rope_index(ids, is_image, image_grid_thw=images.image_grid_thw)
    assert np.array_equal(positions[1:], expected[:, 0].numpy())


def test_labels_stay_on_their_tokens_around_pictures(seeing: SimpleNamespace) -> None:
    sample = render(seeing, turn("user", "Show ", picture(40, 24)), turn("assistant", "like ", picture(16, 60), " so"))
    trained = sample.input_ids[sample.is_label].tolist()
    text = seeing.tokenizer.decode([i for i in trained if i < 256])
    assert text == "like  so"
    assert seeing.rule.placeholder_id not in trained
    assert trained[-1] == seeing.tokenizer.eos_token_id
    for span, count in zip(sample.images, (24 * 40, 16 * 60), strict=True):
        assert set(sample.input_ids[span.start : span.stop].tolist()) == {seeing.rule.placeholder_id}
        assert 1 <= span.num_tokens <= count


def test_a_picture_is_never_cut(seeing: SimpleNamespace) -> None:
    turns = (turn("user", "a", picture(64, 64)), turn("assistant", "bc", picture(64, 64), "d"))
    whole = render(seeing, *turns)
    second = whole.images[1]
    ids = whole.input_ids.tolist()
    has_own_tags = ids[second.start] in seeing.rule.tag_ids
    start, stop = second.start - (not has_own_tags), second.stop + (not has_own_tags)
    for most in range(start, whole.num_tokens):
        cut = render(seeing, *turns, labels="assistant", seq_len=most, is_truncating=True)
        assert cut.num_tokens <= most
        assert len(cut.images) == (2 if most >= stop else 1)
        # The tags around it go with it.
        assert cut.num_tokens == (start if most < stop else most)
        assert (cut.input_ids == seeing.rule.placeholder_id).sum() == sum(span.num_tokens for span in cut.images)


def test_what_the_model_sees_can_be_shown(seeing: SimpleNamespace) -> None:
    sample = render(seeing, turn("user", picture(64, 32), picture(32, 32)), {"role": "assistant", "content": "Yes"})
    images, grids = make_image_tensors([sample], seeing.rule), [span.grid for span in sample.images]
    assert images is not None
    shown = seeing.rule.show_tensors(images, grids)
    assert len(shown) == 2
    last = shown[1][-1]
    expected = np.asarray(picture(32, 32).decode().resize(last.shape[1::-1], Image.Resampling.BICUBIC))
    assert np.abs(last.astype(int) - expected.astype(int)).max() <= 3


def test_a_text_that_spells_the_placeholder_is_refused(seeing: SimpleNamespace) -> None:
    with pytest.raises(DataError, match="the text has 2 image placeholders for 1 images"):
        render(seeing, turn("user", picture(20, 20), "<|image_pad|>"), {"role": "assistant", "content": "a"})


def test_the_stand_in_is_one_token(seeing: SimpleNamespace) -> None:
    features = compute_features(seeing.plain, stand_in(seeing.plain, torch.device("cpu")))
    assert features.embeds.shape == (1, seeing.plain.config.get_text_config().hidden_size)
    assert all(tensor.shape == features.embeds.shape for tensor in features.deepstack)


def test_rows_without_pictures_have_positions_of_the_same_rank(seeing: SimpleNamespace) -> None:
    sample = render(seeing, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"})
    assert collate([(sample,)], seeing.rule).position_ids.ndim == collate([], seeing.rule).position_ids.ndim
    assert collate([(sample,)], seeing.rule).images is None


def test_a_strip_that_qwen_does_not_take_is_a_bad_sample() -> None:
    model = ModelConfig(
        family="qwen3_vl",
        config=FAMILIES["qwen3_vl"].tiny,
        init="random",
        tokenizer="builtin:bytes",
        chat_template="builtin:chatml",
    )
    tokenizer = build_tokenizer(model)
    renderer = Renderer(tokenizer, labels="assistant", seq_len=64, image_rule=build_image_rule(model, tokenizer))
    turns = (turn("user", picture(1000, 4)), {"role": "assistant", "content": "a"})
    with pytest.raises(DataError, match="1000 x 4 pixels is not taken: absolute aspect ratio"):
        renderer.render(Sample(Place("s", 0, "x"), messages=turns))


def test_a_tokenizer_without_the_image_token_is_refused() -> None:
    fields = {**FAMILIES["qwen3_vl"].tiny, "image_token_id": 151_655}
    model = ModelConfig(family="qwen3_vl", config=fields, init="random", tokenizer="builtin:bytes")
    with pytest.raises(ConfigError, match="image_token_id = 151655 is none of them"):
        build_image_rule(model, build_tokenizer(model))


def test_the_frames_of_a_film_are_pictures(seeing: SimpleNamespace) -> None:
    shots = [picture(300, 200 + k) for k in range(3)]
    film = Film("film", pictures=tuple(shots))
    asked = {"role": "user", "content": ({"type": "video", "video": film}, {"type": "text", "text": "What?"})}
    answer = turn("assistant", "Three")
    sample = render(seeing, asked, answer, labels="assistant", seq_len=4096)
    tiles = seeing.rule.__class__.__name__ == "TileRule"
    assert len(sample.images) == 3
    assert all(span.grid == (1, 1, 1) for span in sample.images) is tiles
    tensors = make_image_tensors([sample], seeing.rule)
    alone = [make_image_tensors([replace(sample, images=(span,))], seeing.rule) for span in sample.images]
    assert torch.equal(tensors.pixel_values, torch.cat([one.pixel_values for one in alone]))
    prompt = render_request([asked], seeing.tokenizer, seeing.rule, Place("s", 0, "x"))
    assert sample.input_ids[: len(prompt.ids)].tolist() == list(prompt.ids)
    assert [span.grid for span in prompt.images] == [span.grid for span in sample.images]


def test_pictures_that_do_not_fit_are_shrunk_until_they_do(seeing: SimpleNamespace) -> None:
    turns = (turn("user", picture(300, 200), picture(40, 24), "What?"), turn("assistant", "Two"))
    whole = render(seeing, *turns, labels="assistant", seq_len=4096)
    sample = Sample(Place("pictures", 0, "here"), messages=turns)
    longest = whole.num_tokens - 1
    renderer = Renderer(
        seeing.tokenizer, labels="assistant", seq_len=longest, image_rule=seeing.rule, is_shrinking=True
    )
    small = renderer.render(sample)
    assert small.num_tokens <= longest
    assert [span.num_shrinks for span in small.images] == [small.images[0].num_shrinks] * 2
    assert small.images[0].num_tokens < whole.images[0].num_tokens
    # Pixels are those of the smaller budget, also beside a sample that keeps its own.
    both = make_image_tensors([whole, small], seeing.rule)
    alone = [make_image_tensors([one], seeing.rule).pixel_values for one in (whole, small)]
    assert both is not None
    assert torch.equal(both.pixel_values, torch.cat(alone))
    with pytest.raises(DataError, match=r"more than stage\.seq_len"):
        Renderer(seeing.tokenizer, labels="assistant", seq_len=12, image_rule=seeing.rule, is_shrinking=True).render(
            sample
        )
