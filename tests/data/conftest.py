"""Tokenizers and chat templates made on the spot, and short ways to write configs and data files."""

import json

import pytest
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vlmforge.config.schema import Config, DataConfig, SourceConfig, StageConfig

# A property holds on a busy machine too.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

SPECIALS = ["<|pad|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<start_of_turn>", "<end_of_turn>", "[INST]"]

TEMPLATES = {
    "chatml": (
        "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% if m.tool_calls %}{% for c in m.tool_calls %}<tool_call>{{ c.function | tojson }}</tool_call>"
        "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    # Like Llama 2: no assistant header, a space before the answer, eos as the end marker, BOS in the text.
    "inst": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '<s>[INST] ' + m.content + ' [/INST]' }}"
        "{% elif m.role == 'assistant' %}{{ ' ' + m.content + ' </s>' }}"
        "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
    ),
    # Like Gemma: the assistant is called model, contents are trimmed.
    "gemma": (
        "<s>{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    # Like Qwen3: the last answer gets an empty thinking block, which earlier answers lose.
    "thinking": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and loop.last %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    ),
    "endless": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    ),
    # Writes a colon and a space before the answer: a tokenizer merges the space with the answer's first word.
    "spaced": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    ),
}

_TEXT = ["the answer is no user assistant system model", "What is the answer to this? The answer is 42.", "a b  c\n\nd"]


def _finish(backend, template):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|pad|>", eos_token="</s>", bos_token="<s>"
    )
    tokenizer.chat_template = TEMPLATES.get(template)
    return tokenizer


@pytest.fixture(scope="session")
def byte_level():
    """Builds a byte-level BPE with merges, by the name of a template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_TEXT * 3, trainer)
    return lambda template: _finish(Tokenizer.from_str(backend.to_str()), template)


@pytest.fixture(scope="session")
def metaspace():
    """Builds a tokenizer in the manner of SentencePiece: a space belongs to the word after it."""
    backend = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<unk>", *SPECIALS],
        initial_alphabet=[chr(c) for c in range(32, 127)],
        show_progress=False,
    )
    backend.train_from_iterator(_TEXT * 3, trainer)
    return lambda template: _finish(Tokenizer.from_str(backend.to_str()), template)


@pytest.fixture(scope="session")
def chatml(byte_level):
    return byte_level("chatml")


@pytest.fixture
def write_jsonl(tmp_path):
    """Writes rows to a file in the test's folder and returns its path."""

    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture(scope="session")
def make_config():
    """A config of sources, with keys of data and stage by name."""

    def make(*sources, data=None, **stage):
        stage = {"seq_len": 256, "micro_batch_size": 1, "global_batch_size": 8, "max_epochs": 1.0} | stage
        return Config(data=DataConfig(train=sources, **(data or {})), stage=StageConfig(**stage))

    return make


@pytest.fixture(scope="session")
def pairs():
    """A source of prompt and response from a path."""
    return lambda path, **keys: SourceConfig(path=(path,), format="prompt_response", **keys)
