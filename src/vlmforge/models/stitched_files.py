"""Where the tensors of a stitched model are in other files: in those of its parts alone, and in published models.

Both directions use one table: a tensor in a file, and the tensors of the model that lie in it end to end. InternViT and
RADIO hold queries, keys and values as one matrix; everything else is renamed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from vlmforge.models.family import Fused
from vlmforge.models.stitched import PROJECTOR_PATH, TEXT_PATH, TOWER_PATH

# A file's tensor to the model's that lie in it, in order of their rows.
Table = Mapping[str, tuple[str, ...]]
# A tensor of the model to the file's of each of its experts, whose rows follow each other.
Stacks = Mapping[str, tuple[tuple[str, ...], ...]]

_QKV = re.compile(r"\.(?:attn|attention)\.[qkv]_proj\.")

# Names in a tower to those in its published files; the first that fits.
_TOWER_NAMES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "vlmforge_internvit": ((r"\.attn\.[qkv]_proj\.", ".attn.qkv."),),
    "vlmforge_radio": (
        (r"^embeddings\.patch_projection\.", "patch_generator.embedder."),
        (r"^embeddings\.cls_register_token$", "patch_generator.cls_token.token"),
        (r"^embeddings\.position_embedding$", "patch_generator.pos_embed"),
        (r"^encoder\.layer\.(\d+)\.attention\.[qkv]_proj\.", r"blocks.\1.attn.qkv."),
        (r"^encoder\.layer\.(\d+)\.attention\.o_proj\.", r"blocks.\1.attn.proj."),
        (r"^encoder\.layer\.", "blocks."),
    ),
}
_PROJECTOR_NAMES = {"norm": "0", "linear_1": "1", "linear_2": "3"}

# What may stand before a tower's names in files of its own.
TOWER_PREFIXES = ("", "vision_model.", "model.", "radio_model.model.", "model.vision_tower.")
# Before the names of a language model's tensors in published files.
PUBLISHED_TEXT = "language_model."
TEXT_PREFIXES = ("model.", "language_model.model.", "")


@dataclass(frozen=True)
class Layout:
    """How a published model's files name and store the tensors, and what the code of their readers fixes.

    Attributes:
        name: what `layout=` calls it.
        model_type: in its config.json, and the name of its class there.
        tower: `model_type` of its tower.
        text: `model_type` of its language model.
        tower_prefix: before the tower's names.
        buffers: tensors of the files that follow from nothing in the model, by name.
        projector_bias: of both linear layers.
        projector_width: the language model's field that its hidden size is; None: a field of its own says it.
        scaling_key: how its config.json names the kind of a scaling of rotary positions.
        habits: what readers do with a picture, as keys of `model.image`.
        num_dummy_heads: heads of zeros behind the tower's real ones.
        wide: patterns of names that are stored in float32; the others are in bfloat16.
    """

    name: str
    model_type: str
    tower: str
    text: str
    tower_prefix: str
    buffers: Mapping[str, tuple[tuple[int, ...], tuple[float, ...]]]
    projector_bias: bool
    projector_width: str | None
    scaling_key: str
    habits: Mapping[str, str]
    num_dummy_heads: int = 0
    wide: tuple[str, ...] = ()

    def dtype(self, name: str) -> torch.dtype:
        """Of a tensor in the files."""
        return torch.float32 if any(re.search(pattern, name) for pattern in self.wide) else torch.bfloat16


_CONDITIONER = "vision_model.radio_model.input_conditioner"
# As the index of nvidia/NVLM-D-72B lists them.
NVLM_D = Layout(
    name="nvlm_d",
    model_type="NVLM_D",
    tower="vlmforge_internvit",
    text="qwen2",
    tower_prefix="vision_model.",
    buffers={},
    projector_bias=False,
    projector_width="intermediate_size",
    scaling_key="type",
    habits={"tile_selector": "closest", "tile_tags": "default", "image_tag": "nvlm"},
    num_dummy_heads=7,
    wide=(
        r"^language_model\..*\.[qkv]_proj\.",
        r"^vision_model\..*\.attn\.(qkv|q_norm|k_norm)\.",
        r"^vision_model\..*\.attn\.proj\.weight$",
    ),
)
# nvidia/Llama-3.1-Nemotron-Nano-VL-8B-V1, inferred from the programs that read it.
NEMOTRON_NANO_VL = Layout(
    name="nemotron_nano_vl",
    model_type="Llama_Nemotron_Nano_VL",
    tower="vlmforge_radio",
    text="llama",
    tower_prefix="vision_model.radio_model.model.",
    buffers={
        f"{_CONDITIONER}.norm_mean": ((3, 1, 1), (0.48145466, 0.4578275, 0.40821073)),
        f"{_CONDITIONER}.norm_std": ((3, 1, 1), (0.26862954, 0.26130258, 0.27577711)),
        "vision_model.radio_model.summary_idxs": ((3,), (0, 1, 2)),
    },
    projector_bias=True,
    projector_width=None,
    scaling_key="rope_type",
    habits={"tile_selector": "area_weighted", "tile_tags": "none", "image_tag": "internvl"},
)
LAYOUTS: Mapping[str, Layout] = {layout.name: layout for layout in (NVLM_D, NEMOTRON_NANO_VL)}


def _invert(named: Iterable[tuple[str, str]]) -> Table:
    """A table from pairs of the model's name and the file's; parts of one file tensor are in the model's order."""
    table: dict[str, tuple[str, ...]] = {}
    for own, file in named:
        table[file] = (*table.get(file, ()), own)
    return {file: tuple(sorted(owns, key=_qkv_order)) for file, owns in table.items()}


def _qkv_order(name: str) -> int:
    return next((place for place, letter in enumerate("qkv") if f".{letter}_proj." in name), 0)


def tower_table(tower: str, names: Sequence[str], prefix: str, is_published: bool = True) -> Table:
    """The tensors of a tower in files.

    Args:
        tower: its `model_type`.
        names: of the model's parameters.
        prefix: before the file's names.
        is_published: named as the tower's authors do; false: as transformers does.
    """
    own = [name for name in names if name.startswith(f"{TOWER_PATH}.")]
    rules = _TOWER_NAMES.get(tower, ()) if is_published else ()
    return _invert((name, prefix + _rename(name.removeprefix(f"{TOWER_PATH}."), rules)) for name in own)


def _rename(name: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, new in rules:
        if re.search(pattern, name):
            return re.sub(pattern, new, name, count=1)
    return name


def text_table(names: Sequence[str], prefix: str) -> Table:
    """The tensors of a language model in files of its own."""
    head = prefix.removesuffix("model.")
    own = [name for name in names if name.startswith(f"{TEXT_PATH}.")]
    table = {prefix + name.removeprefix(f"{TEXT_PATH}."): (name,) for name in own}
    return {**table, **{f"{head}{name}": (name,) for name in names if name.startswith("lm_head.")}}


def projector_table(names: Sequence[str]) -> Table:
    """The projector's tensors as published models number them."""
    table: dict[str, tuple[str, ...]] = {}
    for name in names:
        if name.startswith(f"{PROJECTOR_PATH}."):
            part, kind = name.removeprefix(f"{PROJECTOR_PATH}.").split(".")
            table[f"mlp1.{_PROJECTOR_NAMES[part]}.{kind}"] = (name,)
    return table


def published_table(layout: Layout, names: Sequence[str]) -> Table:
    """All tensors of a published model."""
    return {
        **tower_table(layout.tower, names, layout.tower_prefix),
        **projector_table(names),
        **text_table(names, f"{PUBLISHED_TEXT}model."),
    }


def part_experts(table: Table, fused: Sequence[Fused], shapes: Mapping[str, tuple[int, ...]]) -> tuple[Table, Stacks]:
    """A table without the experts' tensors, and the files' tensors that those are made of one expert at a time.

    Args:
        table: of a language model.
        fused: how its files hold experts one by one.
        shapes: of the model's tensors.
    """
    stacks: dict[str, tuple[tuple[str, ...], ...]] = {}
    for file, (own, *_) in table.items():
        one = next((one for one in fused if file.endswith(f".{one.parameter}")), None)
        if one is not None:
            layer, experts = file.removesuffix(f".{one.parameter}"), range(shapes[own][0])
            stacks[own] = tuple(tuple(f"{layer}.{piece.format(k)}" for piece in one.pieces) for k in experts)
    return {file: owns for file, owns in table.items() if owns[0] not in stacks}, stacks


def tower_candidates(tower: str, names: Sequence[str]) -> list[Table]:
    """Every way in which a folder may hold a tower."""
    return [
        tower_table(tower, names, prefix, is_published) for is_published in (True, False) for prefix in TOWER_PREFIXES
    ]
