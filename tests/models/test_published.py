"""The files of published models: names, shapes and types at full size, and there and back bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.models.worker_published import train_published
from tests.support.ranks import start_groups, wait_for_ranks
from tests.support.tiny import merge, stitched_fields
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from vlmforge.cli import main
from vlmforge.config.chat_templates import CHAT_TEMPLATES
from vlmforge.config.recipes import installed_folder
from vlmforge.config.schema import Config, ModelConfig
from vlmforge.data.draw import draw_square
from vlmforge.models.build import build_on_meta
from vlmforge.models.stitch import make_buffers
from vlmforge.models.stitched_files import LAYOUTS, published_table
from vlmforge.models.tokenizer import build_byte_tokenizer

Expected = dict[str, tuple[tuple[int, ...], torch.dtype]]
LOW, WIDE = torch.bfloat16, torch.float32


def below(prefix: str, shapes: dict[str, tuple[int, ...]], wide: tuple[str, ...] = ()) -> Expected:
    return {f"{prefix}{name}": (shape, WIDE if name in wide else LOW) for name, shape in shapes.items()}


def nvlm_d() -> Expected:
    """As the index of nvidia/NVLM-D-72B lists them."""
    text = "language_model."
    expected = below(
        text,
        {
            "model.embed_tokens.weight": (152064, 8192),
            "model.norm.weight": (8192,),
            "lm_head.weight": (152064, 8192),
        },
    )
    projections = {"q_proj": 8192, "k_proj": 1024, "v_proj": 1024}
    wide = {f"self_attn.{name}.{kind}": 0 for name in projections for kind in ("weight", "bias")}
    for layer in range(80):
        shapes: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (8192,),
            "post_attention_layernorm.weight": (8192,),
            "self_attn.o_proj.weight": (8192, 8192),
            "mlp.gate_proj.weight": (29568, 8192),
            "mlp.up_proj.weight": (29568, 8192),
            "mlp.down_proj.weight": (8192, 29568),
        }
        for name, rows in projections.items():
            shapes |= {f"self_attn.{name}.weight": (rows, 8192), f"self_attn.{name}.bias": (rows,)}
        expected |= below(f"{text}model.layers.{layer}.", shapes, tuple(wide))
    assert len(expected) == 963
    expected |= below(
        "mlp1.", {"0.weight": (12800,), "0.bias": (12800,), "1.weight": (29568, 12800), "3.weight": (8192, 29568)}
    )
    tower = below(
        "vision_model.embeddings.",
        {
            "class_embedding": (1, 1, 3200),
            "patch_embedding.weight": (3200, 3, 14, 14),
            "patch_embedding.bias": (3200,),
            "position_embedding": (1, 1025, 3200),
        },
    )
    for layer in range(45):
        block = {
            "attn.qkv.weight": (12288, 3200),
            "attn.q_norm.weight": (4096,),
            "attn.k_norm.weight": (4096,),
            "attn.proj.weight": (3200, 4096),
            "attn.proj.bias": (3200,),
            "ls1": (3200,),
            "ls2": (3200,),
            "mlp.fc1.weight": (12800, 3200),
            "mlp.fc1.bias": (12800,),
            "mlp.fc2.weight": (3200, 12800),
            "mlp.fc2.bias": (3200,),
            "norm1.weight": (3200,),
            "norm2.weight": (3200,),
        }
        wide_here = ("attn.qkv.weight", "attn.q_norm.weight", "attn.k_norm.weight", "attn.proj.weight")
        tower |= below(f"vision_model.encoder.layers.{layer}.", block, wide_here)
    assert len(tower) == 589
    return expected | tower


def nemotron() -> Expected:
    """As the programs that read nvidia/Llama-3.1-Nemotron-Nano-VL-8B-V1 expect them."""
    expected = below(
        "language_model.",
        {
            "model.embed_tokens.weight": (128512, 4096),
            "model.norm.weight": (4096,),
            "lm_head.weight": (128512, 4096),
        },
    )
    for layer in range(32):
        shapes = {
            "input_layernorm.weight": (4096,),
            "post_attention_layernorm.weight": (4096,),
            "self_attn.q_proj.weight": (4096, 4096),
            "self_attn.k_proj.weight": (1024, 4096),
            "self_attn.v_proj.weight": (1024, 4096),
            "self_attn.o_proj.weight": (4096, 4096),
            "mlp.gate_proj.weight": (14336, 4096),
            "mlp.up_proj.weight": (14336, 4096),
            "mlp.down_proj.weight": (4096, 14336),
        }
        expected |= below(f"language_model.model.layers.{layer}.", shapes)
    projector = {"0.weight": (5120,), "0.bias": (5120,), "1.weight": (4096, 5120), "1.bias": (4096,)}
    expected |= below("mlp1.", {**projector, "3.weight": (4096, 4096), "3.bias": (4096,)})
    tower = "vision_model.radio_model."
    expected |= below(
        f"{tower}model.patch_generator.",
        {"embedder.weight": (1280, 768), "cls_token.token": (8, 1280), "pos_embed": (1, 16384, 1280)},
    )
    for layer in range(32):
        shapes = {
            "norm1.weight": (1280,),
            "norm1.bias": (1280,),
            "attn.qkv.weight": (3840, 1280),
            "attn.qkv.bias": (3840,),
            "attn.proj.weight": (1280, 1280),
            "attn.proj.bias": (1280,),
            "norm2.weight": (1280,),
            "norm2.bias": (1280,),
            "mlp.fc1.weight": (5120, 1280),
            "mlp.fc1.bias": (5120,),
            "mlp.fc2.weight": (1280, 5120),
            "mlp.fc2.bias": (1280,),
        }
        expected |= below(f"{tower}model.blocks.{layer}.", shapes)
    conditioner = f"{tower}input_conditioner"
    buffers: Expected = {f"{conditioner}.{name}": ((3, 1, 1), WIDE) for name in ("norm_mean", "norm_std")}
    return expected | buffers | {f"{tower}summary_idxs": ((3,), torch.int64)}


@pytest.mark.parametrize(
    ("name", "layout", "expected"),
    [("nvlm_d_72b", "nvlm_d", nvlm_d), ("nemotron_nano_vl_8b", "nemotron_nano_vl", nemotron)],
)
def test_the_files_of_the_full_model_are_those_that_are_published(name: str, layout: str, expected: Any) -> None:
    stated = yaml.safe_load((installed_folder("configs") / "model" / f"{name}.yaml").read_text())
    model = build_on_meta(Config(model=ModelConfig(family="stitched", init="random", config=stated["config"])))
    own = dict(model.named_parameters())
    rule = LAYOUTS[layout]
    found: Expected = {}
    for file_name, owns in published_table(rule, list(own)).items():
        shape = torch.cat([own[part] for part in owns]).shape
        found[file_name] = (tuple(shape), rule.dtype(file_name))
    found |= {file_name: (tuple(tensor.shape), tensor.dtype) for file_name, tensor in make_buffers(rule)}
    assert found == expected()


def make_published(folder: Path, tower: str, text: str, layout_name: str) -> None:
    """A tiny model in a published layout, of random weights."""
    layout = LAYOUTS[layout_name]
    model = build_on_meta(Config(model=ModelConfig(family="stitched", init="random", config=fields_of(tower, text))))
    own = dict(model.named_parameters())
    torch.manual_seed(0)
    tensors = {
        name: torch.randn(torch.cat([own[part] for part in owns]).shape).to(layout.dtype(name))
        for name, owns in published_table(layout, list(own)).items()
    }
    folder.mkdir()
    save_file({**tensors, **dict(make_buffers(layout))}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "published"}))
    tokenizer = build_byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATES["builtin:chatml"].text
    tokenizer.save_pretrained(folder)


def fields_of(tower: str, text: str) -> dict[str, Any]:
    """With a key-value head for each of four ranks."""
    return merge(
        stitched_fields(tower, text), {"tie_word_embeddings": False, "text_config": {"num_key_value_heads": 4}}
    )


def overrides(tower: str, text: str) -> list[str]:
    """The model as overrides: a group file would have to lie beside a recipe."""
    words = ["model.family=stitched", "model.chat_template=builtin:chatml", "model.image.max_tiles=2"]

    def flat(at: str, value: Any) -> None:
        if isinstance(value, dict) and at.count(".") < 3 and "rope" not in at:
            for name, inner in value.items():
                flat(f"{at}.{name}", inner)
        else:
            text = json.dumps(value).replace('"', "") if isinstance(value, dict) else json.dumps(value)
            words.append(f"{at}={text}")

    flat("model.config", fields_of(tower, text))
    return words


RECIPE = """\
parallelism: {dp_shard: 1, param_dtype: float32}
data: {train: [{path: 'builtin:image_messages', format: messages}]}
stage: {seq_len: 256, global_batch_size: 2, max_steps: 1, optimizer: {lr: 1.0e-30, weight_decay: 0.0}}
"""


# InternViT has a dummy head beside three.
DRAWN = ("internvit", "llama")
PARTS = {"nvlm_d": ("internvit", "qwen2"), "nemotron_nano_vl": ("radio", "llama")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Published folders, converted and trained for a step at tp 1, 2 and 4."""
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # The step changes nothing: its rate is below what any weight can show.
        Path("none.yaml").write_text(RECIPE)
        for layout, parts in PARTS.items():
            make_published(folder / layout, *parts, layout)
            assert main(["convert", *overrides(*parts), f"checkpoint={layout}", f"output=ours-{layout}"]) == 0
        ranks = start_groups("tests.models.worker_published", (2, 4), folder, *PARTS)
        for layout in PARTS:
            train_published(layout, tp=1)
        wait_for_ranks(ranks)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("layout", PARTS)
def test_a_published_folder_comes_back_bit_by_bit_through_training(
    layout: str, tp: int, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    again = f"again-{layout}-{tp}"
    assert main(["convert", f"checkpoint=runs/{layout}-{tp}/export", f"layout={layout}", f"output={again}"]) == 0
    before, after = (
        {name: t for path in (trained / folder).glob("*.safetensors") for name, t in load_file(path).items()}
        for folder in (layout, again)
    )
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype, name
        assert torch.equal(tensor, after[name]), name


def test_a_misspelt_field_is_refused_before_a_folder_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*overrides("clip", "llama"), "model.config.projector_nrom=rms_norm", "tower=clip", "language_model=llama"]
    assert main(["convert", *words, "output=joined"]) == 2
    assert "model.config.projector_nrom = rms_norm: stitched has no such field" in capsys.readouterr().err


def test_a_model_is_joined_from_a_tower_and_a_language_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    fields = fields_of("clip", "llama")
    vision = {name: value for name, value in fields["vision_config"].items() if name != "model_type"}
    small = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 8}
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=small, projection_dim=8))
    clip.save_pretrained(tmp_path / "clip")
    text = {**fields["text_config"], "vocab_size": 264, "tie_word_embeddings": True}
    text.pop("model_type")
    rope = {"rope_theta": text.pop("rope_theta"), **text.pop("rope_scaling")}
    llama = LlamaForCausalLM(LlamaConfig(**text, rope_parameters=rope))
    llama.save_pretrained(tmp_path / "llama")
    build_byte_tokenizer().save_pretrained(tmp_path / "llama")
    words = ["convert", *overrides("clip", "llama"), "tower=clip", "language_model=llama", "output=joined"]
    assert main(words) == 0, capsys.readouterr().err
    told = capsys.readouterr()
    assert "tensors of the folders have no place in the model" in told.err
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "joined")
    assert torch.equal(model.model.language_model.embed_tokens.weight[:264], llama.model.embed_tokens.weight)
    assert torch.equal(model.lm_head.weight[:264], llama.model.embed_tokens.weight)
    assert model.lm_head.weight[264:].std().item() == pytest.approx(0.02, rel=0.1)
    tied = [word.replace("tie_word_embeddings=false", "tie_word_embeddings=true") for word in overrides(*DRAWN)]
    assert main(["convert", *tied, "tower=random", "language_model=llama", "output=drawn"]) == 0
    assert "are new, drawn from run.seed=0: model.vision_tower." in capsys.readouterr().out
    tower = AutoModelForImageTextToText.from_pretrained(tmp_path / "drawn").model.vision_tower
    assert torch.all(tower.encoder.layers[0].ls1 == tower.config.layer_scale_init_value), "its own rule of drawing"
    assert main(["convert", "checkpoint=drawn", "layout=nvlm_d", "output=untied"]) == 0
    untied = {name: t for path in (tmp_path / "untied").glob("*.safetensors") for name, t in load_file(path).items()}
    rows = untied["language_model.model.embed_tokens.weight"]
    assert torch.equal(untied["language_model.lm_head.weight"], rows), "published models tie nothing"
    pixels = torch.randn(1, 3, 32, 32)
    # Up to the last block, before the norm behind the pooled token.
    theirs = clip.vision_model(pixels).last_hidden_state
    torch.testing.assert_close(model.model.vision_tower(pixels), theirs)
    (tmp_path / "red.png").write_bytes(draw_square(60, 30, (200, 0, 0)))
    words = ["generate", "checkpoint=joined", "image=red.png", "prompt=Hi", "stage.generation.max_new_tokens=3"]
    capsys.readouterr()
    assert main([*words, "parallelism.param_dtype=float32"]) == 0, capsys.readouterr().err
    answer = capsys.readouterr().out.removesuffix("\n")
    # And by transformers alone, which knows the processor too.
    processor = AutoProcessor.from_pretrained(tmp_path / "joined")
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]}
    asked = processor.apply_chat_template([turn], add_generation_prompt=True)
    with Image.open(tmp_path / "red.png") as picture:
        inputs = processor(images=picture, text=asked, return_tensors="pt", add_special_tokens=False)
    assert inputs["pixel_values"].shape == (3, 3, 32, 32), "two tiles and the whole"
    clear, white = (
        processor(images=Image.new(mode, (32, 32), colour), text=asked, return_tensors="pt")["pixel_values"]
        for mode, colour in (("RGBA", (9, 9, 9, 0)), ("RGB", "white"))
    )
    assert torch.equal(clear, white)
    output = model.float().generate(**inputs, max_new_tokens=3, do_sample=False)
    assert processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True) == answer
