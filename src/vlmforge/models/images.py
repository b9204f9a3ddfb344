"""How each family sees pictures: which rule it has, made from its config, its processor and its tokenizer.

The rules are in `image_rules.py`, where transformers' own processors make the pixels, and in `stitched_images.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoImageProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2_5_VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from vlmforge.config.schema import ModelConfig
from vlmforge.errors import ConfigError, Problem
from vlmforge.models.family import Family, Vision
from vlmforge.models.hub import fetch_folder
from vlmforge.models.image_rules import NativeRule, TileRule
from vlmforge.models.shape import build_hf_config, find_family
from vlmforge.models.stitched_images import StitchedRule, build_stitched_processor, derive_stitched_rule

if TYPE_CHECKING:
    from vlmforge.data.images import ImageRule

# What transformers' AutoProcessor makes of an exported folder, by family.
_PROCESSORS: dict[str, tuple[Any, Any]] = {
    "qwen2_5_vl": (Qwen2_5_VLProcessor, Qwen2VLVideoProcessor),
    "qwen3_vl": (Qwen3VLProcessor, Qwen3VLVideoProcessor),
    "qwen3_vl_moe": (Qwen3VLProcessor, Qwen3VLVideoProcessor),
    "internvl": (InternVLProcessor, InternVLVideoProcessor),
}
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def build_image_rule(model: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> ImageRule | None:
    """How the model of a recipe sees pictures; None where it takes text only.

    Raises:
        ConfigError: the tokenizer has no token for pictures.
        CheckpointError: the hub id cannot be fetched.
    """
    shape = build_hf_config(model)
    return derive_image_rule(shape, build_image_processor(model, shape), tokenizer, model.image.num_frames)


def derive_image_rule(
    shape: PretrainedConfig, processor: Any, tokenizer: PreTrainedTokenizerBase, num_frames: int
) -> ImageRule | None:
    """The rule of a model that exists; see `build_image_rule`.

    Args:
        shape: the model's config.
        processor: as `build_image_processor` makes it.
        tokenizer: the model's.
        num_frames: of a film that are seen.
    """
    family = find_family(shape)
    if family.vision is None:
        return None
    if family.vision.rule == "stitched":
        return derive_stitched_rule(shape, processor, tokenizer, num_frames)
    placeholder = int(shape.image_token_id)
    _check_placeholder(tokenizer, placeholder)
    tags = _tag_ids(tokenizer)
    if family.vision.rule == "native":
        return NativeRule(processor, placeholder, frozenset(tags), family.vision.has_mrope, num_frames)
    num_tokens = int(shape.image_seq_length)
    own_tags = () if _writes_tags(tokenizer, tags) else tuple(tags)
    return TileRule(processor, placeholder, frozenset(tags), own_tags, num_tokens, num_frames)


def _check_placeholder(tokenizer: PreTrainedTokenizerBase, placeholder: int) -> None:
    if placeholder < len(tokenizer) and tokenizer.convert_ids_to_tokens(placeholder) is not None:
        return
    problem = Problem(
        f"the tokenizer has {len(tokenizer)} tokens, and model.config.image_token_id = {placeholder} is none of them",
        "model.tokenizer",
        "use the tokenizer that belongs to the model (leave model.tokenizer out)",
    )
    raise ConfigError(problem)


def _tag_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens before and after a picture, by the names that tokenizers give them."""
    named = (("start_image_token", "end_image_token"), ("vision_bos_token", "vision_eos_token"))
    words = next(((getattr(tokenizer, a), getattr(tokenizer, b)) for a, b in named if hasattr(tokenizer, a)), None)
    known = tokenizer.get_vocab()
    words = words or ("<|vision_start|>", "<|vision_end|>")
    return [known[word] for word in words if word in known]


def _writes_tags(tokenizer: PreTrainedTokenizerBase, tags: Sequence[int]) -> bool:
    """Whether the chat template puts them around a picture; InternVL's own leaves them to the processor."""
    if not tokenizer.chat_template or not tags:
        return False
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    text = str(tokenizer.apply_chat_template([turn], tokenize=False))
    return str(tokenizer.convert_ids_to_tokens(tags[0])) in text


def build_image_processor(model: ModelConfig, shape: PretrainedConfig) -> Any:
    """Transformers' own image processor for the model, with the recipe's budget; None where it takes text only."""
    family = find_family(shape)
    if family.vision is None:
        return None
    budget = {name: value for name in family.vision.keys if (value := getattr(model.image, name)) is not None}
    folder = _processor_folder(model)
    if family.vision.rule == "stitched":
        return build_stitched_processor(folder, shape, family.vision, budget)
    if folder is None:
        processor = _default_processor(family.vision, shape)
    else:
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    return _with_budget(processor, family, budget)


def _processor_folder(model: ModelConfig) -> Path | None:
    """The folder of `pretrained`, if it says how pictures are prepared."""
    if model.pretrained is None:
        return None
    folder = fetch_folder(model.pretrained, with_weights=False, revision=model.revision)
    return folder if any((folder / name).is_file() for name in PROCESSOR_FILES) else None


def _default_processor(vision: Vision, shape: Any) -> Any:
    """As published, with the model's own patch or tile size."""
    tower = shape.vision_config
    colours: dict[str, Any] = {"image_mean": list(vision.mean), "image_std": list(vision.std)}
    if vision.rule == "native":
        return Qwen2VLImageProcessor(
            patch_size=tower.patch_size,
            temporal_patch_size=tower.temporal_patch_size,
            merge_size=tower.spatial_merge_size,
            **vision.keys,
            **colours,
        )
    height, width = tower.image_size
    options: dict[str, Any] = {"crop_to_patches": True, "max_patches": vision.keys["max_tiles"]}
    return GotOcr2ImageProcessor(size={"height": height, "width": width}, **options, **colours)


def _with_budget(processor: Any, family: Family, budget: dict[str, int]) -> Any:
    """The same processor with what the recipe says, in place."""
    expected = Qwen2VLImageProcessor if family.vision and family.vision.rule == "native" else GotOcr2ImageProcessor
    if not isinstance(processor, expected):
        problem = Problem(
            f"the folder's image processor is a {type(processor).__name__}; family {family.name} needs a "
            f"{expected.__name__}",
            "model.pretrained",
            "give a folder of this family that transformers' AutoProcessor reads",
        )
        raise ConfigError(problem)
    if isinstance(processor, Qwen2VLImageProcessor):
        least, most = budget.get("min_pixels"), budget.get("max_pixels")
        size: Any = processor.size
        processor.size = {
            "shortest_edge": least or size["shortest_edge"],
            "longest_edge": most or size["longest_edge"],
        }
    else:
        processor.crop_to_patches = True
        processor.max_patches = budget.get("max_tiles", processor.max_patches)
    return processor


def save_processor(
    folder: Path, shape: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, rule: ImageRule | None
) -> None:
    """Save the tokenizer, with all that transformers' AutoProcessor needs where the model sees."""
    if rule is None:
        tokenizer.save_pretrained(folder)
        return
    if isinstance(rule, StitchedRule):
        tokenizer.save_pretrained(folder)
        rule.processor.save_pretrained(folder)
        return
    assert isinstance(rule, NativeRule | TileRule), "a rule that transformers has a processor for"
    processor_class, video_class = _PROCESSORS[find_family(shape).name]
    video_processor = video_class()
    template = tokenizer.chat_template
    more = {"image_seq_length": rule.num_tokens} if isinstance(rule, TileRule) else {}
    processor = processor_class(rule.processor, tokenizer, video_processor, chat_template=template, **more)
    processor.save_pretrained(folder)
