"""The tokenizer and the template that ship with vlmforge."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from vlmforge.config.schema import ModelConfig
from vlmforge.data.render import find_end_marker
from vlmforge.errors import CheckpointError
from vlmforge.models import FAMILIES
from vlmforge.models.tokenizer import build_byte_tokenizer, build_tokenizer


def build(template: str | None = "builtin:chatml"):
    return build_tokenizer(ModelConfig(tokenizer="builtin:bytes", chat_template=template))


@pytest.mark.parametrize("text", ["plain", "Grüße, 世界 \U0001f600", " two  spaces\n\n\ttab", "\x00\x7f"])
def test_bytes_come_back_and_count(text: str) -> None:
    tokenizer = build()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(text.encode())
    assert max(ids) < 256
    assert tokenizer.decode(ids) == text


def test_special_tokens_have_the_ids_that_tiny_models_count_on() -> None:
    tokenizer = build_byte_tokenizer()
    for family in FAMILIES.values():
        text = family.tiny.get(family.text_section, family.tiny)
        assert tokenizer.pad_token_id == text["pad_token_id"]
        assert tokenizer.eos_token_id == text["eos_token_id"]
        assert len(tokenizer) <= text["vocab_size"]


def test_the_template_writes_turns_and_tools() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    tokenizer = build()
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    assert '"name": "add"' in tokenizer.apply_chat_template(turns, tools=tools, tokenize=False)
    assert find_end_marker(tokenizer) == "<|im_end|>"


def test_a_template_can_be_taken_away() -> None:
    assert build("builtin:chatml").chat_template is not None
    assert build("builtin:none").chat_template is None


def test_it_survives_being_saved(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "<|im_start|>user\nnaïve<|im_end|>"
    assert again(text)["input_ids"] == build()(text)["input_ids"]
    assert again.chat_template == build().chat_template


def test_a_template_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    assert build(str(path)).apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "x<|im_end|>"


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tokenizer"):
        build_tokenizer(ModelConfig(pretrained=str(tmp_path)))
