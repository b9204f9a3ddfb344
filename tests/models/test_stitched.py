"""Stitched models: their parts against the numbers of the systems that they replace, and against transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.support.tiny import stitched_fields
from transformers.models.internvl.modeling_internvl import InternVLModel

from vlmforge.config.schema import (
    AdapterConfig,
    Config,
    GroupLrConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelismConfig,
    StageConfig,
)
from vlmforge.errors import ConfigError
from vlmforge.models import FAMILIES
from vlmforge.models.build import auto_class, build_on_meta, find_frozen_towers
from vlmforge.models.head import LossModel
from vlmforge.models.image_types import ImageTensors
from vlmforge.models.projector_model import pixel_shuffle
from vlmforge.models.projectors import PROJECTORS
from vlmforge.models.shape import build_hf_config
from vlmforge.models.stitched_config import StitchedConfig
from vlmforge.models.stitched_model import TOWER_CLASSES
from vlmforge.models.towers import TOWERS
from vlmforge.models.towers.internvit_model import HeadsNorm, InternVitTower
from vlmforge.models.towers.radio_model import RadioTower, crop_positions
from vlmforge.parallel.context import SequenceSplit

LLAMA_8B = {"model_type": "llama", "hidden_size": 4096, "rms_norm_eps": 1e-5}
CLIP_L = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
INTERNVIT_6B = {
    "model_type": "vlmforge_internvit",
    "hidden_size": 3200,
    "intermediate_size": 12800,
    "num_hidden_layers": 45,
    "num_attention_heads": 25,
    "num_dummy_heads": 7,
    "image_size": 448,
    "patch_size": 14,
    "norm_type": "rms_norm",
    "qkv_bias": False,
    "use_qk_norm": True,
}
RADIO_H = {"model_type": "vlmforge_radio", "image_size": 512, "patch_size": 16, "num_cls_tokens": 3, "num_registers": 5}
SIGLIP = {"model_type": "siglip_vision_model", "hidden_size": 1152, "image_size": 448, "patch_size": 14}


def build(fields: dict[str, Any]) -> Any:
    """A model of random weights that are large enough to matter, in evaluation mode."""
    shape = build_hf_config(ModelConfig(family="stitched", config=fields))
    model = auto_class(shape).from_config(shape, attn_implementation="sdpa").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize(
    ("tower", "ratio", "drops", "count"),
    [
        (INTERNVIT_6B, 0.5, True, 256),
        (INTERNVIT_6B, 1.0, True, 1024),
        (INTERNVIT_6B, 1.0, False, 1025),
        (RADIO_H, 0.5, True, 256),
        (SIGLIP, 0.5, True, 256),
        (CLIP_L, 1.0, True, 576),
        (CLIP_L, 1.0, False, 577),
    ],
)
def test_a_tile_has_as_many_tokens_as_upstream(tower: dict[str, Any], ratio: float, drops: bool, count: int) -> None:
    shape = StitchedConfig(vision_config=tower, text_config=LLAMA_8B, downsample_ratio=ratio, drop_class_tokens=drops)
    assert shape.image_seq_length == count


def test_pixel_shuffle_folds_neighbours_row_by_row() -> None:
    grid = torch.arange(16.0).view(1, 4, 4, 1)
    assert pixel_shuffle(grid, 2)[0].tolist() == [
        [[0, 1, 4, 5], [2, 3, 6, 7]],
        [[8, 9, 12, 13], [10, 11, 14, 15]],
    ]
    features = torch.randn(2, 4, 6, 3)
    assert torch.equal(pixel_shuffle(features, 2), InternVLModel.pixel_shuffle(None, features, 0.5))


# Of Megatron's multimodal examples, behind a Llama of width 4096 whose eps is 1e-6; "internvl" is InternVL's own.
PROJECTOR_TABLE = {
    "internvl": (4096, "layer_norm", 1e-5, True),
    "llama3.1_8b": (4096, "layer_norm", 1e-5, True),
    "qwen2.0_72B": (29568, "layer_norm", 1e-6, False),
    "qwen2.5_72B": (29568, "layer_norm", 1e-6, False),
    "yi-34b": (20480, "layer_norm", 1e-5, False),
    "qwen2.5_7B": (3584, "rms_norm", 1e-6, False),
    "mistral_7b": (14336, "none", 1e-5, False),
    "llama3_8b": (14336, "rms_norm", 1e-6, False),
    "llama3.2_1b": (2048, "layer_norm", 1e-5, False),
    "llama_nemotron_8b": (14336, "layer_norm", 1e-5, True),
    "hf": (4096, "layer_norm", 1e-5, False),
}


@pytest.mark.parametrize("kind", PROJECTORS)
def test_projectors_are_those_of_their_language_model(kind: str) -> None:
    shape = StitchedConfig(text_config={**LLAMA_8B, "rms_norm_eps": 1e-6}, vision_config=CLIP_L, projector_type=kind)
    found = (shape.projector_hidden_size, shape.projector_norm, shape.projector_norm_eps, shape.projector_bias)
    assert found == PROJECTOR_TABLE[kind]


def test_the_norm_of_queries_knows_only_real_heads() -> None:
    norm = HeadsNorm(num_real=50, num_dummy=14, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    queries = torch.cat([torch.randn(1, 3, 50), torch.zeros(1, 3, 14)], dim=-1)
    expected = queries[..., :50] / (queries[..., :50].square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight[:50]
    torch.testing.assert_close(norm(queries)[..., :50], expected)
    assert not norm(queries)[..., 50:].any()
    # In bfloat16 it is divided in float32 and rounded once before it is multiplied.
    low = queries.bfloat16()
    wide = low.float()[..., :50]
    rounded = (wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt()).bfloat16() * norm.weight[:50].bfloat16()
    assert torch.equal(norm.bfloat16()(low)[..., :50], rounded)


def test_dummy_heads_change_nothing() -> None:
    fields = {**stitched_fields("internvit", "llama")["vision_config"]}
    del fields["model_type"]
    torch.manual_seed(0)
    padded = InternVitTower(InternVitTower.config_class(**fields, attn_implementation="eager"))
    plain = InternVitTower(InternVitTower.config_class(**{**fields, "num_dummy_heads": 0}, attn_implementation="eager"))
    for name, parameter in plain.named_parameters():
        whole = padded.get_parameter(name)
        parameter.data = whole.data[tuple(slice(size) for size in parameter.shape)].clone()
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(padded(pixels), plain(pixels))
    # Gradients of dummies are zero, so they stay what they are.
    padded(pixels).square().sum().backward()
    attention = padded.encoder.layers[0].attn
    for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
        assert not linear.weight[48:].any()
        assert not linear.weight.grad[48:].any()
    assert not attention.proj.weight.grad[:, 48:].any()


def radio(**fields: Any) -> RadioTower:
    shape = RadioTower.config_class(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, **fields)
    return RadioTower(shape)


def test_positions_of_a_radio_tile_are_means_of_the_middle_of_four() -> None:
    tower = radio(patch_size=16, max_img_size=2048).eval()
    table = torch.randn(1, 128 * 128, 8)
    tower.embeddings.position_embedding.data = table
    positions = tower.embeddings._interpolate_position_embedding((32, 32), torch.float32)
    cells = table.view(32, 4, 32, 4, 8)[:, 1:3, :, 1:3]
    torch.testing.assert_close(positions.view(32, 32, 8), cells.mean((1, 3)))


def test_positions_of_a_radio_tile_are_cropped_at_random_in_training_only() -> None:
    tower = radio(patch_size=8, max_img_size=64)
    pixels = torch.randn(1, 3, 32, 32)
    training = tower.train()(pixels), tower(pixels)
    assert not torch.equal(*training)
    assert torch.equal(tower.eval()(pixels), tower(pixels))
    torch.manual_seed(0)
    # A table that holds its own coordinates shows which window was sampled.
    axis = torch.linspace(0, 1, 16)
    table = torch.stack(torch.meshgrid(axis, axis, indexing="ij"))[None]
    rows, columns = crop_positions(table, 500, (4, 4)).view(500, 4, 4, 2).unbind(-1)
    heights, widths = rows[:, -1, 0] - rows[:, 0, 0], columns[:, 0, -1] - columns[:, 0, 0]
    assert rows.min() >= 0
    assert rows.max() <= 1
    scale = (heights * widths).sqrt()[(heights < 0.999) & (widths < 0.999)]
    assert scale.min() >= 0.1**0.5 - 1e-4
    aspect = (widths / heights)[(heights < 0.999) & (widths < 0.999)]
    assert aspect.min() >= 9 / 16 - 1e-3
    assert aspect.max() <= 16 / 9 + 1e-3


def test_ranks_that_share_out_a_picture_see_the_same_crop_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = stitched_fields("radio", "llama")
    model = build({**fields, "vision_config": {**fields["vision_config"], "crops_positions": True}})
    word = model.config.image_token_id
    ids = torch.tensor([[65, *[word] * 4, 66, 67]])
    length = ids.shape[1]
    inputs = (ids, torch.arange(length)[None], ids, torch.tensor([0, length], dtype=torch.int32), length)
    images = ImageTensors(torch.randn(1, 3, 32, 32))

    @contextmanager
    def draw_alike(split: SequenceSplit, device: torch.device) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            yield

    monkeypatch.setattr(SequenceSplit, "same_draws", draw_alike)
    group: Any = None

    def losses(split: SequenceSplit | None) -> list[float]:
        root, found = LossModel(model, split).train(), []
        for rank in range(2):
            torch.manual_seed(rank)
            found.append(root(*inputs, images).item())
        return found

    alone, (first, second) = losses(None), losses(SequenceSplit(group, 0, 1))
    assert alone[0] != alone[1]
    assert first == second


@pytest.mark.parametrize("trainable", [("projector",), ("vision_tower",)])
@pytest.mark.parametrize("is_kept", [True, False])
def test_only_a_frozen_tower_stays_in_evaluation_mode(trainable: tuple[str, ...], is_kept: bool) -> None:
    config = Config(
        model=ModelConfig(family="stitched", config=stitched_fields("radio", "llama"), init="random"),
        parallelism=ParallelismConfig(),
        stage=StageConfig(trainable=trainable, frozen_in_eval=is_kept),
    )
    model = build_on_meta(config)
    frozen = find_frozen_towers(model) if is_kept else []
    root = LossModel(model, kept_in_eval=frozen)
    root.eval()
    root.train()
    tower = model.get_submodule("model.vision_tower")
    assert tower.training == (not is_kept or trainable == ("vision_tower",))
    assert model.get_submodule("model.projector").training


@pytest.mark.parametrize(
    ("targets", "more", "told"),
    [
        ("all-linear", {"model": {"cache_image_embeds": True}}, "needs a frozen vision tower, and adapters in it"),
        (
            ("gate_proj",),
            {"optimizer": OptimizerConfig(group_lr=GroupLrConfig(projector=1e-3))},
            "group_lr.projector = 0.001 has no effect",
        ),
    ],
)
def test_what_an_adapter_rules_out_is_refused(targets: Any, more: dict[str, Any], told: str) -> None:
    fields = stitched_fields("clip", "llama")
    model = ModelConfig(family="stitched", config=fields, init="random", **more.pop("model", {}))
    stage = StageConfig(kind="lora", adapter=AdapterConfig(target_modules=targets), **more)
    with pytest.raises(ConfigError, match=told):
        build_on_meta(Config(model=model, stage=stage))


# Names of InternVL's class beside ours.
INTERNVL_NAMES = (
    ("multi_modal_projector.layer_norm", "projector.norm"),
    ("multi_modal_projector", "projector"),
    ("cls_token", "class_embedding"),
    ("position_embeddings", "position_embedding"),
    ("patch_embeddings.projection", "patch_embedding"),
    ("encoder.layer.", "encoder.layers."),
    ("lambda_", "ls"),
    ("attention.projection_layer", "attn.proj"),
    ("attention.", "attn."),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
)


def ours_of(name: str) -> str:
    for theirs, ours in INTERNVL_NAMES if "language_model" not in name else ():
        name = name.replace(theirs, ours)
    return name


@pytest.mark.parametrize("is_large", [True, False])
def test_internvl_stitched_from_its_parts_is_internvl(is_large: bool) -> None:
    """Of the structure of the 6B tower, with norms over queries and keys, and of the 300M one."""
    tiny = FAMILIES["internvl"].tiny
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    kind = "rms_norm" if is_large else "layer_norm"
    theirs_tower = {"use_qk_norm": is_large, "norm_type": kind, "attention_bias": not is_large}
    shape = build_hf_config(
        ModelConfig(
            family="internvl",
            config={**tiny, "vision_config": {**tiny["vision_config"], **tower, **theirs_tower}},
        )
    )
    torch.manual_seed(0)
    theirs = auto_class(shape).from_config(shape).eval()
    ours_tower = {"use_qk_norm": is_large, "norm_type": kind, "qkv_bias": not is_large}
    ours = build(
        {
            "text_config": tiny["text_config"],
            "vision_config": {
                "model_type": "vlmforge_internvit", "image_size": 32, "patch_size": 8, **tower, **ours_tower
            },
            "image_token_id": tiny["image_token_id"],
            "projector_type": "internvl",
            "tie_word_embeddings": shape.tie_word_embeddings,
        }
    )  # fmt: skip
    for name, parameter in theirs.named_parameters():
        parameter.data = ours.get_parameter(ours_of(name)).data.view_as(parameter)
    assert len(list(theirs.parameters())) == len(list(ours.parameters()))
    ids = torch.tensor([[65, *[262] * 8, 66, 67]])
    inputs = {"input_ids": ids, "pixel_values": torch.randn(2, 3, 32, 32)}
    with torch.no_grad():
        torch.testing.assert_close(ours(**inputs).logits, theirs(**inputs).logits, rtol=1e-5, atol=1e-5)
        answers = [
            model.generate(**inputs, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
            for model in (ours, theirs)
        ]
    assert torch.equal(*answers)


def test_an_image_token_beyond_the_table_is_replaced_before_it_is_looked_up() -> None:
    """As with Yi, whose table has exactly the rows of its own tokens."""
    fields = stitched_fields("clip", "llama")
    inside, beyond = build(fields), build({**fields, "image_token_id": 288})
    beyond.load_state_dict(inside.state_dict())
    pixels = torch.randn(1, 3, 32, 32)
    logits = [
        model(input_ids=torch.tensor([[5, *[word] * 4, 6]]), pixel_values=pixels).logits
        for model, word in ((inside, 264), (beyond, 288))
    ]
    assert torch.equal(*logits)


def test_every_tower_has_a_class() -> None:
    assert list(TOWER_CLASSES) == list(TOWERS)


def test_more_image_tokens_than_tiles_are_refused() -> None:
    model = build(stitched_fields("clip", "llama"))
    with pytest.raises(ValueError, match="5 image tokens for 4 embeddings"):
        model(input_ids=torch.full((1, 5), 264), pixel_values=torch.randn(1, 3, 32, 32))


def test_tiles_beside_embeddings_are_refused() -> None:
    model = build(stitched_fields("clip", "llama"))
    embeds = model.get_input_embeddings()(torch.full((1, 5), 7))
    with pytest.raises(ValueError, match="pixel_values need input_ids"):
        model(inputs_embeds=embeds, pixel_values=torch.randn(1, 3, 32, 32))
