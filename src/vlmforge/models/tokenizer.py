"""Tokenizers and chat templates: a model's own, or the small byte-level pair that ships with vlmforge.

`builtin:bytes` has one token a byte and eight specials, so that tiny models need no vocabulary of thousands. The
templates that ship with vlmforge stand in `config/chat_templates.py`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vlmforge.config.chat_templates import CHAT_TEMPLATES, NO_TEMPLATE
from vlmforge.config.schema import ModelConfig
from vlmforge.errors import CheckpointError, ConfigError, Problem
from vlmforge.models.hub import fetch_folder
from vlmforge.models.images import build_image_processor
from vlmforge.models.shape import build_hf_config
from vlmforge.models.stitched import STITCHED
from vlmforge.models.stitched_images import prepare_tokenizer

BYTES = "builtin:bytes"

SPECIAL_TOKENS = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")
# For pictures, under the names that Qwen-VL's and InternVL's processors look for.
IMAGE_TOKENS = {
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
}
INTERNVL_NAMES = {
    "start_image_token": "<|vision_start|>",
    "end_image_token": "<|vision_end|>",
    "context_image_token": "<|image_pad|>",
}


def build_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a recipe's model, with the chat template that the recipe asks for.

    Raises:
        CheckpointError: the folder or hub id holds no tokenizer that can be read.
        ConfigError: nothing says where the tokenizer comes from, or the template file cannot be read.
    """
    name = model.tokenizer or model.pretrained
    if name is None:
        problem = Problem(
            "model.tokenizer is missing and there is no model.pretrained to take it from",
            "recipe",
            f"set model.tokenizer={BYTES} or model.pretrained=<folder or hub id>",
        )
        raise ConfigError(problem)
    if name == BYTES:
        tokenizer = build_byte_tokenizer()
    else:
        is_own = model.tokenizer is not None
        revision, key = (None, "model.tokenizer") if is_own else (model.revision, "model.pretrained")
        folder = fetch_folder(name, with_weights=False, revision=revision, key=key)
        tokenizer = load_tokenizer(folder, model.trust_remote_code)
    if model.chat_template == NO_TEMPLATE:
        tokenizer.chat_template = None
    elif model.chat_template is not None:
        ours = CHAT_TEMPLATES.get(model.chat_template)
        tokenizer.chat_template = ours.text if ours else _read_template(model.chat_template)
    if _is_stitched(model):
        prepare_tokenizer(tokenizer, build_image_processor(model, build_hf_config(model)))
    return tokenizer


def _is_stitched(model: ModelConfig) -> bool:
    """Whether the tokenizer must be given the tokens and words of pictures."""
    if model.family is not None or model.pretrained is None:
        return model.family == STITCHED.name
    path = fetch_folder(model.pretrained, with_weights=False, revision=model.revision) / "config.json"
    return path.is_file() and json.loads(path.read_text()).get("model_type") == STITCHED.model_type


def is_at_hand(model: ModelConfig) -> bool:
    """Whether the tokenizer is built in or in a folder here, so that building it looks nothing up on a hub."""
    name = model.tokenizer or model.pretrained
    return name is not None and (name == BYTES or Path(name).is_dir())


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder.

    Raises:
        CheckpointError: it has none, or transformers cannot read it.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        problem = Problem(
            f"the tokenizer of {folder} cannot be loaded: {str(error).splitlines()[0]}",
            str(folder),
            "set model.tokenizer to a folder or hub id with a tokenizer.json",
        )
        raise CheckpointError(problem) from error


def build_byte_tokenizer() -> PreTrainedTokenizerFast:
    """The byte-level tokenizer: ids 0 to 255 are bytes, then come `SPECIAL_TOKENS` and `IMAGE_TOKENS`."""
    # The specials are in the vocabulary too: transformers would otherwise number them in an order of its own, and
    # the families' tiny configs count on these ids.
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *SPECIAL_TOKENS, *IMAGE_TOKENS.values()]
    vocab = {word: index for index, word in enumerate(words)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    pad, start, end, text_end = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=pad,
        eos_token=end,
        extra_special_tokens={"turn_token": start, "text_end_token": text_end, **IMAGE_TOKENS, **INTERNVL_NAMES},
        clean_up_tokenization_spaces=False,
    )


def hash_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The sha256 of the chat template, for the manifest; None without a template."""
    template = tokenizer.chat_template
    return hashlib.sha256(str(template).encode()).hexdigest() if template else None


def _read_template(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        problem = Problem(
            f"model.chat_template = {path} cannot be read: {error.strerror}",
            path,
            "name an existing Jinja file, or builtin:chatml",
        )
        raise ConfigError(problem) from error
