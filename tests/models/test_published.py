"""The files of published models: names, shapes and types at full size, and there and back bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.models.worker_published import train_published
from tests.support.group_files import read_model_file
from tests.support.published import PARTS, assert_has, fields_of, make_published, overrides, published_json
from tests.support.ranks import start_groups, wait_for_ranks

from vlmforge.cli import main
from vlmforge.config.schema import Config, ModelConfig
from vlmforge.models.build import build_on_meta
from vlmforge.models.published import published_config
from vlmforge.models.stitch import make_buffers
from vlmforge.models.stitched_files import LAYOUTS, published_table

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


# What the published config.json files are known to say.
NVLM_D_JSON = {
    "architectures": ["NVLM_D"], "model_type": "NVLM_D", "downsample_ratio": 0.5, "force_image_size": 448,
    "max_dynamic_patch": 6, "min_dynamic_patch": 1, "use_thumbnail": True, "ps_version": "v2", "select_layer": -1,
    "template": "chatml",
    "llm_config": {
        "model_type": "qwen2", "vocab_size": 152064, "rope_theta": 1e6, "rms_norm_eps": 1e-6,
        "rope_scaling": {"type": "dynamic", "factor": 3.0}, "max_position_embeddings": 32768,
    },
    "vision_config": {
        "model_type": "intern_vit_6b", "num_attention_heads": 25, "hidden_size": 3200, "qk_normalization": True,
        "norm_type": "rms_norm", "qkv_bias": False, "initializer_factor": 0.1, "layer_norm_eps": 1e-6,
    },
}  # fmt: skip
NEMOTRON_JSON = {
    "architectures": ["Llama_Nemotron_Nano_VL"], "model_type": "Llama_Nemotron_Nano_VL", "force_image_size": 512,
    "patch_size": 16, "downsample_ratio": 0.5, "ps_version": "v2", "vit_hidden_size": 1280,
    "projector_hidden_size": 4096,
    "llm_config": {
        "model_type": "llama", "vocab_size": 128512, "rope_theta": 5e5, "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "vision_config": {
        "auto_map": {
            "AutoConfig": "nvidia/C-RADIOv2-H--hf_model.RADIOConfig",
            "AutoModel": "nvidia/C-RADIOv2-H--hf_model.RADIOModel",
        },
        "patch_size": 16, "max_resolution": 2048,
        "args": {"model": "vit_huge_patch16_224", "cpe_max_size": 2048, "register_multiple": 8},
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "layout", "expected", "stated_json"),
    [
        ("nvlm_d_72b", "nvlm_d", nvlm_d, NVLM_D_JSON),
        ("nemotron_nano_vl_8b", "nemotron_nano_vl", nemotron, NEMOTRON_JSON),
    ],
)
def test_the_files_of_the_full_model_are_those_that_are_published(
    name: str, layout: str, expected: Any, stated_json: dict[str, Any]
) -> None:
    stated = read_model_file(name)
    model = build_on_meta(Config(model=ModelConfig(family="stitched", init="random", config=stated["config"])))
    own = dict(model.named_parameters())
    rule = LAYOUTS[layout]
    found: Expected = {}
    for file_name, owns in published_table(rule, list(own)).items():
        shape = torch.cat([own[part] for part in owns]).shape
        found[file_name] = (tuple(shape), rule.dtype(file_name))
    found |= {file_name: (tuple(tensor.shape), tensor.dtype) for file_name, tensor in make_buffers(rule)}
    assert found == expected()
    assert_has(published_config(rule, model.config, stated["image"]), stated_json)


RECIPE = """\
parallelism: {dp_shard: 1, param_dtype: float32}
data: {train: [{path: 'builtin:image_messages', format: messages}]}
stage: {seq_len: 256, global_batch_size: 2, max_steps: 1, optimizer: {lr: 1.0e-30, weight_decay: 0.0}}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Published folders, converted and trained for a step at tp 1, 2 and 4."""
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # The step changes nothing: its rate is below what any weight can show.
        Path("none.yaml").write_text(RECIPE)
        for layout in PARTS:
            make_published(folder / layout, layout)
            words = [*overrides(fields_of(layout)), f"checkpoint={layout}", f"output=ours-{layout}"]
            assert main(["convert", *words]) == 0
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
    assert main(["convert", f"checkpoint=runs/{layout}-{tp}", f"layout={layout}", f"output={again}"]) == 0
    before, after = (
        {name: t for path in (trained / folder).glob("*.safetensors") for name, t in load_file(path).items()}
        for folder in (layout, again)
    )
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype, name
        assert torch.equal(tensor, after[name]), name
    assert_has(json.loads((trained / again / "config.json").read_text()), published_json(layout))
