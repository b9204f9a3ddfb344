"""`vlmforge convert`: parts joined and asked, and what it refuses, each with what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from tests.support.published import fields_of, make_published, overrides
from tests.support.tiny import make_base, merge, stitched_fields
from vlmforge.cli import main
from vlmforge.data.draw import draw_square
from vlmforge.models.tokenizer import build_byte_tokenizer

JOIN = ["tower=clip", "language_model=llama"]
SEEING = "internvl"
TEXTS = ("mistral", "qwen2", "qwen3", "seed_oss", "gemma", "gemma3")


def join_fields(tower: str, is_tied: bool = False) -> dict[str, Any]:
    more = {"tie_word_embeddings": is_tied, "vision_config": {"layer_norm_eps": 1e-6}}
    return merge(stitched_fields(tower, "llama"), more)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP, a tied Llama, other language models and one that sees, as plain transformers saves them."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    fields = join_fields("clip")
    vision = {name: value for name, value in fields["vision_config"].items() if name != "model_type"}
    small = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 8}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=small, projection_dim=8)).save_pretrained(folder / "clip")
    text = {**fields["text_config"], "vocab_size": 264, "tie_word_embeddings": True}
    text.pop("model_type")
    rope = {"rope_theta": text.pop("rope_theta"), **text.pop("rope_scaling")}
    LlamaForCausalLM(LlamaConfig(**text, rope_parameters=rope)).save_pretrained(folder / "llama")
    build_byte_tokenizer().save_pretrained(folder / "llama")
    for name in (*TEXTS, SEEING):
        make_base(folder / name, name)
    return folder


@pytest.fixture
def here(parts: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(parts)
    return parts


def read(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def convert(*words: str) -> int:
    return main(["convert", *words])


def test_a_model_is_joined_from_a_tower_and_a_language_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*overrides(join_fields("clip")), "model.config.initializer_range=0.014"]
    assert convert(*words, *JOIN, "output=joined") == 0, capsys.readouterr().err
    told = capsys.readouterr()
    assert "tensors of the folders have no place in the model" in told.err
    assert "embed_tokens.weight has 264 rows in the files, and 24 new ones now" in told.err
    assert "4 tensors are new, drawn from run.seed=0: model.projector." in told.out
    model: Any = AutoModelForImageTextToText.from_pretrained(here / "joined")
    table = LlamaForCausalLM.from_pretrained(here / "llama").model.embed_tokens.weight
    assert torch.equal(model.model.language_model.embed_tokens.weight[:264], table)
    assert torch.equal(model.lm_head.weight[:264], table)
    for drawn in (model.lm_head.weight[264:], model.model.projector.linear_1.weight):
        assert drawn.std().item() == pytest.approx(0.014, rel=0.1)
    pixels = torch.randn(1, 3, 32, 32)
    # Up to the last block, before the norm behind the pooled token.
    theirs = CLIPModel.from_pretrained(here / "clip").vision_model(pixels).last_hidden_state
    torch.testing.assert_close(model.model.vision_tower(pixels), theirs)
    (here / "red.png").write_bytes(draw_square(60, 30, (200, 0, 0)))
    words = ["checkpoint=joined", "image=red.png", "prompt=Hi", "stage.generation.max_new_tokens=3"]
    assert main(["generate", *words, "parallelism.param_dtype=float32"]) == 0, capsys.readouterr().err
    answer = capsys.readouterr().out.removesuffix("\n")
    # And by transformers alone, which knows the processor too.
    processor = AutoProcessor.from_pretrained(here / "joined")
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]}
    asked = processor.apply_chat_template([turn], add_generation_prompt=True)
    with Image.open(here / "red.png") as picture:
        inputs = processor(images=picture, text=asked, return_tensors="pt", add_special_tokens=False)
    assert inputs["pixel_values"].shape == (3, 3, 32, 32), "two tiles and the whole"
    output = model.float().generate(**inputs, max_new_tokens=3, do_sample=False)
    assert processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True) == answer


@pytest.mark.parametrize("name", TEXTS)
def test_every_language_model_is_joined(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*overrides(stitched_fields("clip", name)), "tower=random", f"language_model={name}"]
    assert convert(*words, f"output=joined-{name}") == 0, capsys.readouterr().err
    before, after = read(here / name), read(here / f"joined-{name}")
    rows = ("embed_tokens.weight", "lm_head.weight")
    for key, tensor in before.items():
        joined = after[key.replace("model.", "model.language_model.", 1) if key.startswith("model.") else key]
        assert torch.equal(joined[: len(tensor)] if key.endswith(rows) else joined, tensor), key


def test_experts_that_lie_one_by_one_are_joined(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = merge(stitched_fields("clip", "qwen3_moe"), {"tie_word_embeddings": False})
    text = {**fields["text_config"], "vocab_size": 288}
    for name in ("model_type", "use_sliding_window", "sliding_window"):
        text.pop(name, None)
    rope = {"rope_type": "default", "rope_theta": text.pop("rope_theta", 1e6)}
    moe = Qwen3MoeForCausalLM(Qwen3MoeConfig(**text, rope_parameters=rope))
    moe.save_pretrained(here / "moe")
    build_byte_tokenizer().save_pretrained(here / "moe")
    assert any(".experts.3.gate_proj." in name for name in read(here / "moe"))
    words = [*overrides(merge(fields, {"text_config": {**text, "rope_theta": rope["rope_theta"]}}))]
    assert convert(*words, "tower=random", "language_model=moe", "output=stitched-moe") == 0, capsys.readouterr().err
    model = AutoModelForImageTextToText.from_pretrained(here / "stitched-moe")
    for name, tensor in moe.model.named_parameters():
        assert torch.equal(model.get_parameter(f"model.language_model.{name}"), tensor), name


def test_a_drawn_tower_is_drawn_by_its_own_rule(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(*overrides(join_fields("internvit")), "tower=random", "language_model=llama", "output=drawn") == 0
    assert "are new, drawn from run.seed=0: model.vision_tower." in capsys.readouterr().out
    tower = AutoModelForImageTextToText.from_pretrained(here / "drawn").model.vision_tower
    assert torch.all(tower.encoder.layers[0].ls1 == tower.config.layer_scale_init_value)
    # Readers of NVLM-D would take the Llama for a Qwen2.
    assert convert("checkpoint=drawn", "layout=nvlm_d", "output=none") == 2
    told = capsys.readouterr().err
    assert "it is for stitched models of vlmforge_internvit and qwen2" in told
    assert "this is vlmforge_internvit and llama" in told
    assert not (here / "none").exists()


def test_published_models_tie_nothing_and_a_run_is_given_by_its_folder(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*overrides(join_fields("radio", is_tied=True)), "model.config.projector_bias=true"]
    run = here / "runs/tied"
    assert convert(*words, "tower=random", "language_model=llama", f"output={run}/export") == 0
    (run / "recipe.yaml").write_text("# A run\n")
    assert convert("checkpoint=runs/tied", "layout=nemotron_nano_vl", "output=untied") == 0
    assert "readers of nemotron_nano_vl have image_tag = internvl, and this model was trained with none" in (
        capsys.readouterr().err
    )
    untied = read(here / "untied")
    assert torch.equal(
        untied["language_model.lm_head.weight"], untied["language_model.model.embed_tokens.weight"].bfloat16()
    )


def test_heads_of_zeros_are_added_for_the_readers_of_published_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = make_published(tmp_path / "published", "nvlm_d")
    assert convert(*overrides(fields_of("nvlm_d")), "checkpoint=published", "output=ours") == 0
    shape = json.loads((tmp_path / "ours/config.json").read_text())
    stripped = {name: cut_dummies(name, tensor) for name, tensor in read(tmp_path / "ours").items()}
    for path in (tmp_path / "ours").glob("*.safetensors"):
        save_file({name: stripped[name] for name in load_file(path)}, path, metadata={"format": "pt"})
    (tmp_path / "ours/config.json").write_text(
        json.dumps({**shape, "vision_config": {**shape["vision_config"], "num_dummy_heads": 0}})
    )
    capsys.readouterr()
    assert convert("checkpoint=ours", "layout=nvlm_d", "output=again") == 0
    assert "have no heads of zeros in the files; 7 are added" in capsys.readouterr().err
    after = read(tmp_path / "again")
    assert before.keys() == after.keys()
    # But for the norms' weights of those heads, which nothing reads.
    assert [name for name in before if "_norm" not in name and not torch.equal(before[name], after[name])] == []


def cut_dummies(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if ".attn." not in name or "bias" in name:
        return tensor
    return (tensor[:, :48] if ".proj." in name else tensor[:48]).contiguous()


REFUSED = {
    "nothing to do": (["model=mistral_clip", "output=new"], 2, "convert needs tower and language_model, or checkpoint"),
    "half of the parts": (["model=mistral_clip", "tower=clip", "output=new"], 2, "convert needs tower and language"),
    "no shape": ([*JOIN, "output=new"], 2, "convert needs a model, whose shape the weights are to have"),
    "a layout and overrides": (
        ["checkpoint=llama", "layout=nvlm_d", "run.seed=1", "output=new"], 2, "no effect on a folder that is written",
    ),
    "no output": (["checkpoint=llama", "layout=nvlm_d"], 2, "output is not given"),
    "an output that is there": (["checkpoint=llama", "layout=nvlm_d", "output=clip"], 2, "output = clip is not empty"),
    "no such layout": (["checkpoint=llama", "layout=nvlm", "output=new"], 2, "layout = nvlm is not a layout"),
    "no stitched model": (["checkpoint=llama", "layout=nvlm_d", "output=new"], 2, "llama is none"),
    "no such folder": (["checkpoint=nowhere", "layout=nvlm_d", "output=new"], 4, "checkpoint = nowhere is no folder"),
    "no published model": (
        [*overrides(join_fields("clip")), "checkpoint=llama", "output=new"], 4, "llama is of model_type llama",
    ),
    "another family": (["model=smollm2_135m", *JOIN, "output=new"], 2, "only stitched models are made of parts"),
    "a misspelt field": (
        [*overrides(join_fields("clip")), "model.config.projector_nrom=rms_norm", *JOIN, "output=new"], 2,
        "model.config.projector_nrom = rms_norm: stitched has no such field",
    ),
    "a tile of no whole tokens": (
        [*overrides(join_fields("clip")), "model.config.vision_config.image_size=40", *JOIN, "output=new"], 2,
        "5 x 5 patches of 8 pixels, which do not fold 2 x 2",
    ),
    "a tower in the place of the language model": (
        [*overrides(join_fields("clip")), "tower=clip", "language_model=clip", "output=new"], 2,
        "model_type = clip belongs to no model family that vlmforge knows",
    ),
    "a model that sees in the place of the language model": (
        [*overrides(join_fields("clip")), "tower=clip", "language_model=internvl", "output=new"], 2,
        "language_model = internvl is of model_type internvl; towers stand before llama, mistral, qwen2",
    ),
    "a language model of another family": (
        [*overrides(join_fields("clip")), "tower=clip", "language_model=mistral", "output=new"], 2,
        "model.config.text_config.model_type = llama, and config.json has model_type = mistral",
    ),
    "a language model of another base": (
        [*overrides(join_fields("clip")), "model.config.text_config.rope_theta=1000.0", *JOIN, "output=new"], 2,
        "model.config.text_config.rope_theta = 1000.0, and config.json has rope_theta = 500000",
    ),
    "a language model of another scaling": (
        [*overrides(join_fields("clip")), "model.config.text_config.rope_scaling.low_freq_factor=2.0", *JOIN,
         "output=new"], 2, "text_config.rope_scaling.low_freq_factor = 2.0, and config.json has rope_scaling.low_freq_",
    ),
    "a language model of another window": (
        [*overrides(stitched_fields("clip", "mistral")), "model.config.text_config.sliding_window=9", "tower=random",
         "language_model=mistral", "output=new"], 2, "sliding_window = 9, and config.json has sliding_window = 7",
    ),
    "a tower of another norm": (
        [*overrides(join_fields("clip")), "model.config.vision_config.layer_norm_eps=1e-4", *JOIN, "output=new"], 2,
        "model.config.vision_config.layer_norm_eps = 0.0001, and config.json has layer_norm_eps = 1e-6",
    ),
    "another shape": (
        [*overrides(join_fields("clip")), "model.config.text_config.intermediate_size=96", *JOIN, "output=new"], 4,
        "has shape [128, 64] in the files and [96, 64] in the model",
    ),
    "a smaller table": (
        [*overrides(join_fields("clip")), "model.config.text_config.vocab_size=260", "model.config.image_token_id=264",
         *JOIN, "output=new"], 4, "has shape [264, 64] in the files and [260, 64] in the model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_converted_is_refused_in_three_lines(
    case: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, code, told = REFUSED[case]
    assert convert(*words) == code
    said = capsys.readouterr().err
    assert told in said
    assert said.count("error: ") == said.count("fix: ") > 0
    assert "Traceback" not in said


def test_an_adapter_is_published_merged_or_not_at_all(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, marks in (("runs/lora/export", ["adapter_config.json"]), ("runs/unmerged", ["adapter_config.json"])):
        (here / name).mkdir(parents=True)
        for mark in marks:
            (here / name / mark).write_text("{}")
    (here / "runs/lora/recipe.yaml").write_text("# A run\n")
    (here / "runs/lora/merged").mkdir()
    assert convert("checkpoint=runs/unmerged", "layout=nvlm_d", "output=new") == 4
    assert "is an adapter, and a published model is whole" in capsys.readouterr().err
    # The merged folder is the one that is looked into.
    assert convert("checkpoint=runs/lora", "layout=nvlm_d", "output=new") == 4
    assert "merged" in capsys.readouterr().err


def test_a_config_json_that_says_otherwise_is_not_read_as_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_published(tmp_path / "published", "nvlm_d")
    words = ["model.config.text_config.rope_theta=10000.0", "model.config.vision_config.norm_type=layer_norm"]
    fields = merge(fields_of("nvlm_d"), {"vision_config": {"qkv_bias": False}})
    assert convert(*overrides(fields), *words, "checkpoint=published", "output=ours") == 2
    told = capsys.readouterr().err
    assert "model.config.text_config.rope_theta = 10000.0, and config.json has llm_config.rope_theta = 1" in told
    assert "fix:   model.config.vision_config.norm_type=rms_norm" in told
    assert "2 errors" in told


def test_another_scaling_of_positions_is_not_read_as_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_published(tmp_path / "published", "nemotron_nano_vl")
    fields = merge(fields_of("nemotron_nano_vl"), {"text_config": {"rope_scaling": {"low_freq_factor": 2.0}}})
    assert convert(*overrides(fields), "checkpoint=published", "output=ours") == 2
    told = capsys.readouterr().err
    assert "text_config.rope_scaling.low_freq_factor = 2.0, and config.json has llm_config.rope_scaling.low_fr" in told
    assert "1 error" in told


def test_what_is_wrong_with_the_recipe_and_with_both_parts_is_said_at_once(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*overrides(join_fields("clip")), "model.config.projector_type=mpl", f"output={tmp_path / 'joined'}"]
    assert convert(*words, f"tower={tmp_path}/clap", f"language_model={tmp_path}/lama") == 2
    told = capsys.readouterr().err
    assert "projector_type = mpl" in told
    assert f"{tmp_path}/clap is neither a folder nor a hub id" in told
    assert f"{tmp_path}/lama is neither a folder nor a hub id" in told


def test_a_language_model_is_no_tower(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*overrides(join_fields("clip")), f"output={tmp_path / 'joined'}"]
    assert convert(*words, "tower=qwen2", "language_model=llama") == 2
    assert "tower = qwen2 is of model_type qwen2, a language model without a tower" in capsys.readouterr().err
