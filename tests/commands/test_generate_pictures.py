"""Answers about pictures, token for token those of transformers' own `generate`, with and without a cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

from tests.numerics.cells import PAIRED, SELDOM, STITCHED
from tests.support.tiny import load_plain, make_base
from vlmforge.cli import main
from vlmforge.config.schema import ImageConfig, ModelConfig
from vlmforge.data.draw import draw_square
from vlmforge.generate import engine
from vlmforge.models import FAMILIES
from vlmforge.models.images import build_image_rule, save_processor
from vlmforge.models.tokenizer import build_tokenizer

NAMES = ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", *STITCHED)
# Of different lengths, so that a batch is padded; the second is about two pictures.
QUESTIONS = {"What?": ["wide.png"], "And which of these two is the larger one?": ["high.png", "wide.png"]}
BUDGET = {"min_pixels": 256, "max_pixels": 4096, "max_tiles": 4}
NUM_TOKENS = 8


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "wide.png").write_bytes(draw_square(90, 40, (200, 30, 0)))
    (folder / "high.png").write_bytes(draw_square(30, 70, (0, 130, 220)))
    rows = [{"prompt": prompt, "images": images} for prompt, images in QUESTIONS.items()]
    (folder / "ask.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def make_model(folder: Path, name: str) -> Any:
    """A folder as an export is; plain transformers' model of it."""
    make_base(folder, name)
    keys = FAMILIES[name.partition("-")[0]].image_keys
    image = ImageConfig(**{key: value for key, value in BUDGET.items() if key in keys})
    config = ModelConfig(pretrained=str(folder), image=image)
    tokenizer = build_tokenizer(config)
    model = load_plain(folder).eval()
    save_processor(folder, model.config, tokenizer, build_image_rule(config, tokenizer))
    return model


def by_transformers(folder: Path, model: Any, prompt: str, pictures: list[Image.Image]) -> dict[str, torch.Tensor]:
    """Inputs of one question by the folder's own processors."""
    content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": prompt}]
    maker = AutoProcessor.from_pretrained(folder) if model.config.model_type != "vlmforge_stitched" else None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": content}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    if maker is not None:
        return dict(maker(text=text, images=pictures, return_tensors="pt"))
    made = AutoImageProcessor.from_pretrained(folder).preprocess(pictures)
    for count in made["num_tiles"]:
        text = text.replace("<image>", "<picture>" * (count * model.config.image_seq_length), 1)
    ids = tokenizer(text.replace("<picture>", "<image>"), return_tensors="pt")
    return {**ids, "pixel_values": made["pixel_values"]}


@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in PAIRED + SELDOM)])
def test_an_answer_about_pictures_is_that_of_transformers(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    model = make_model(here / name, name)
    answers: list[list[int]] = []
    decode = engine._decode

    def keep(loaded: Any, ids: list[int]) -> str:
        answers.append(ids)
        return decode(loaded, ids)

    monkeypatch.setattr(engine, "_decode", keep)
    words = [f"checkpoint={name}", "input=ask.jsonl", f"output={name}.jsonl", "parallelism.param_dtype=float32"]
    assert main(["generate", *words, f"stage.generation.max_new_tokens={NUM_TOKENS}"]) == 0
    for ours, (prompt, paths) in zip(answers, QUESTIONS.items(), strict=True):
        inputs = by_transformers(here / name, model, prompt, [Image.open(path).convert("RGB") for path in paths])
        for use_cache in (True, False):
            theirs = model.generate(
                **inputs, max_new_tokens=NUM_TOKENS, do_sample=False, use_cache=use_cache, eos_token_id=258,
                pad_token_id=256,
            )  # fmt: skip
            expected = theirs[0, inputs["input_ids"].shape[1] :].tolist()
            assert ours[: len(expected)] == expected, use_cache
            assert set(ours[len(expected) :]) <= {256}


def test_what_is_wrong_with_pictures_and_the_checkpoint_is_said_at_once(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    (tmp_path / "text.png").write_text("no picture")
    pictures = ["wide.png", "absent.png", f"{tmp_path}/text.png"]
    words = ["generate", "checkpoint=absent", "prompt=What?", *(f"image={name}" for name in pictures)]
    assert main(words) == 4
    told = capsys.readouterr().err
    assert "file absent.png does not exist" in told
    assert "mend the path; relative ones start at the working directory" in told
    assert "the file is no picture" in told
    assert "checkpoint = absent is no folder" in told
    assert "3 errors" in told
    assert "on_bad_sample" not in told


def test_an_image_that_is_empty_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "recipe=quickstart", "prompt=What?", "image="]) == 3
    assert "image 1 is empty" in capsys.readouterr().err


def test_every_bad_picture_of_a_file_of_prompts_is_named_before_the_first_answer(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "What?", "images": [name]} for name in (str(here / "wide.png"), "a.png", "b.png")]
    (tmp_path / "ask.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"input={tmp_path / 'ask.jsonl'}", f"output={tmp_path / 'answers.jsonl'}"]
    assert main(["generate", f"checkpoint={here}", *words]) == 4
    told = capsys.readouterr().err
    assert f"{tmp_path}/ask.jsonl:2" in told
    assert f"{tmp_path}/ask.jsonl:3" in told
    assert f"relative ones start at {tmp_path}" in told
    assert list(tmp_path.iterdir()) == [tmp_path / "ask.jsonl"]
