"""Prompt formats of Megatron's vision-language models: the exact text, what of it is trained, what is refused."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vlmforge.config.chat_templates import CHAT_TEMPLATES, QWEN_SYSTEM
from vlmforge.data.render import Renderer, find_end_marker, render_prompt
from vlmforge.data.sample import Place, Sample
from vlmforge.errors import DataError

SPECIALS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SYSTEM = {"role": "system", "content": "Answer."}
TALK = (
    {"role": "user", "content": " Which? "},
    {"role": "assistant", "content": "A kite. "},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
)

LLAMA3 = (
    "<s><|start_header_id|>system<|end_header_id|>\n\nAnswer.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhich?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[[A kite.<|eot_id|>]]"
    "<|start_header_id|>user<|end_header_id|>\n\nSure?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[[Yes.<|eot_id|>]]"
)
CHATML = (
    "<|im_start|>system\nAnswer.<|im_end|>\n<|im_start|>user\n Which? <|im_end|>\n"
    "<|im_start|>assistant\n[[A kite. <|im_end|>\n]]<|im_start|>user\nSure?<|im_end|>\n"
    "<|im_start|>assistant\n[[Yes.<|im_end|>\n]]"
)
# What each format makes of the conversation with its system turn; trained tokens stand in [[ and ]].
WRITTEN = {
    "llama3": LLAMA3,
    "llama3p1": LLAMA3,
    "qwen2p0": CHATML,
    "qwen2p5": CHATML,
    "qwen2p5_forced_system": CHATML.replace("Answer.", QWEN_SYSTEM),
    "nvlm_yi_34b": "<s>" + CHATML,
    "mistral": "<s>[INST]  Which?  [/INST][[ A kite. </s>]][INST] Sure? [/INST][[ Yes.</s>]]",
}
# Tokens of an assistant's turn that are not trained, and its tokens after the content.
HEADERS = {"llama3p1": (4, 1), "qwen2p0": (3, 2), "qwen2p5": (3, 2), "mistral": (0, 1)}


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level BPE that knows the words of the formats, as the real ones do."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["assistant\n\n", "system\n\n", "user\n\n", "assistant\nYes", " kite"] * 50, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def with_template(tokenizer, name):
    tokenizer.chat_template = CHAT_TEMPLATES[f"builtin:{name}"].text
    return tokenizer


def render(tokenizer, *turns):
    sample = Sample(Place("s", 0, "file.jsonl:1"), messages=turns)
    return Renderer(tokenizer, labels="assistant", seq_len=4096).render(sample)


def mark_trained(tokenizer, rendered):
    """The text, with what is trained in brackets."""
    text, was_label = "", False
    for token, is_label in zip(rendered.input_ids.tolist(), rendered.is_label.tolist(), strict=True):
        text += "[[" * (is_label and not was_label) + "]]" * (was_label and not is_label) + tokenizer.decode([token])
        was_label = is_label
    return text + "]]" * was_label


@pytest.mark.parametrize("name", WRITTEN)
def test_a_format_writes_and_trains_exactly_this(tokenizer, name):
    rendered = render(with_template(tokenizer, name), SYSTEM, *TALK)
    assert mark_trained(tokenizer, rendered) == WRITTEN[name]


@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "qwen2p5_forced_system"])
def test_no_format_writes_a_system_turn_of_its_own(tokenizer, name):
    text = mark_trained(tokenizer, render(with_template(tokenizer, name), *TALK))
    assert "system" not in text


def test_the_forced_system_turn_is_added_where_there_is_none(tokenizer):
    text = mark_trained(tokenizer, render(with_template(tokenizer, "qwen2p5_forced_system"), *TALK))
    assert text.startswith(f"<|im_start|>system\n{QWEN_SYSTEM}<|im_end|>\n<|im_start|>user")


@pytest.mark.parametrize("name", HEADERS)
def test_as_many_tokens_of_a_turn_are_left_out_as_in_megatron(tokenizer, name):
    asked, answered = render(with_template(tokenizer, name), TALK[0], TALK[3]), TALK[3]["content"]
    before = len(tokenizer(mark_trained(tokenizer, asked).split("[[")[0], add_special_tokens=False)["input_ids"])
    alone = render_user_turn(tokenizer, name)
    content = len(tokenizer(" " * (name == "mistral") + answered, add_special_tokens=False)["input_ids"])
    assert (before - alone, asked.num_label_tokens - content) == HEADERS[name]


def render_user_turn(tokenizer, name):
    """Tokens of the user's turn without what a generation prompt adds."""
    text = tokenizer.apply_chat_template([TALK[0]], tokenize=False)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("name", WRITTEN)
def test_generation_starts_from_what_was_trained_and_stops_at_the_end_marker(tokenizer, name):
    rendered = render(with_template(tokenizer, name), SYSTEM, *TALK)
    prompt = render_prompt((SYSTEM, *TALK[:3]), tokenizer)
    assert rendered.input_ids[: len(prompt)].tolist() == prompt
    assert rendered.is_label[len(prompt)]
    assert find_end_marker(tokenizer) in tokenizer.decode(rendered.input_ids[-2:])


@pytest.mark.parametrize("name", ["llama3p1", "qwen2p0", "nvlm_yi_34b", "mistral"])
@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([TALK[0], {"role": "assistant", "content": "  "}], "a turn of role assistant is empty"),
        ([TALK[0], {"role": "assistant", "content": "<image>"}], "an image stands in a turn of the assistant"),
        ([{"role": "tool", "content": "2"}, TALK[3]], "it knows no role tool"),
    ],
)
def test_what_megatron_refuses_is_refused(tokenizer, name, turns, message):
    with pytest.raises(DataError, match=message):
        render(with_template(tokenizer, name), *turns)


def test_a_system_turn_further_on_is_not_passed_over(tokenizer):
    with pytest.raises(DataError, match="passes over a system turn at the start only"):
        render(with_template(tokenizer, "mistral"), *TALK[:2], SYSTEM, *TALK[2:])


def test_a_format_that_begins_with_bos_needs_one(tokenizer):
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>")
    with pytest.raises(DataError, match="BOS"):
        render(with_template(bare, "llama3p1"), *TALK)


def test_an_image_part_becomes_the_image_token(tokenizer):
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\nWhich?"}]}
    for name in ("chatml", "qwen2p0"):
        text = with_template(tokenizer, name).apply_chat_template([turn], tokenize=False)
        assert text == "<|im_start|>user\n<image>\nWhich?<|im_end|>\n"
