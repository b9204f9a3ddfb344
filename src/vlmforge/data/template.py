"""What a chat template writes, and which part of it is an assistant's turn.

Everything here is text; `render.py` makes tokens of it. A turn is the difference of two renderings: of the
turns before it with the generation prompt, and of the turns up to it. A template that changes earlier turns
when later ones arrive has no such difference, and is refused rather than guessed at.

As everywhere in Hugging Face's tokenizers, a special token that is spelt out in a user's text becomes that
token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmforge.config.chat_templates import trains_line_end
from vlmforge.data.sample import Message
from vlmforge.errors import DataError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "probe"
_PROBE_TURNS = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": _PROBE})


class TemplateError(Exception):
    """A template cannot render or separate a conversation; the caller adds the sample's place."""

    def __init__(self, what: str, fix: str) -> None:
        """Keep both parts of the message."""
        super().__init__(what)
        self.what = what
        self.fix = fix


@dataclass(frozen=True)
class RenderedTurns:
    """A conversation as text.

    Attributes:
        text: all of it.
        spans: [start, end) of what is trained of each assistant turn: its content and end marker, and the line end
            after it where the template's rules say so.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


def render_turns(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], tools: Sequence[Any] | None
) -> RenderedTurns:
    """Write a conversation and find its assistant turns.

    Raises:
        TemplateError: the template refuses the turns, does not keep earlier ones, or leaves tools out.
    """
    text = _apply(tokenizer, turns, tools)
    _require_names(text, tools or (), "tool descriptions")
    spans: list[tuple[int, int]] = []
    for k, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        until = text if k == len(turns) - 1 else _apply(tokenizer, turns[: k + 1], tools)
        start = len(_find_prompt(tokenizer, turns[:k], tools, until, k))
        end = len(until if trains_line_end(tokenizer.chat_template) else until.rstrip())
        is_after_last = not spans or start >= spans[-1][1]
        if not text.startswith(until) or not is_after_last:
            raise TemplateError(
                f"the chat template writes turn {k} differently once later turns follow it",
                "use a template that keeps earlier turns (model.chat_template=builtin:chatml), "
                "or make one sample of every assistant turn",
            )
        _require_names(text[start:end], turn.get("tool_calls", ()), f"the tool calls of turn {k}")
        spans.append((start, end))
    return RenderedTurns(text, tuple(spans))


def render_prompt_turns(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], tools: Sequence[Any] | None
) -> RenderedTurns:
    """Write the turns before an answer, with the generation prompt at the end.

    A template with a thinking switch is asked not to think: that is the prompt which samples without a
    reasoning part were trained after.

    Returns:
        The text, and the spans of earlier assistant turns where the template keeps them apart.

    Raises:
        TemplateError: the template refuses the turns.
    """
    prompt = _list_prompts(tokenizer, turns, tools)[-1]
    try:
        history = render_turns(tokenizer, turns, tools)
    except TemplateError:
        # Such a conversation is not trained on, but one can still go on with it.
        return RenderedTurns(prompt, ())
    return RenderedTurns(prompt, history.spans if prompt.startswith(history.text) else ())


def find_end_marker(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The token that the chat template writes after an assistant's content.

    Returns:
        For example `<|im_end|>`; the eos token where there is no chat template; None if the template ends a
        turn with nothing that the tokenizer knows as one token, so that generation could not stop at it.
    """
    try:
        return _probe_end_marker(tokenizer)
    except TemplateError:
        return None


def _probe_end_marker(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The same; a template that refuses two plain turns says why."""
    eos: Any = tokenizer.eos_token
    if not tokenizer.chat_template:
        return eos
    text = _apply(tokenizer, _PROBE_TURNS, None)
    marker = text[text.rfind(_PROBE) + len(_PROBE) :].strip()
    ids = tokenizer(marker, add_special_tokens=False)["input_ids"] if marker else []
    return str(tokenizer.convert_ids_to_tokens(ids[0])) if ids and ids[0] in marker_ids(tokenizer) else None


def require_end_marker(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a template that a model could not learn to stop with.

    Raises:
        DataError: the template writes no end marker, or refuses two plain turns.
    """
    try:
        marker = _probe_end_marker(tokenizer)
    except TemplateError as error:
        raise DataError(Problem(error.what, "model.chat_template", error.fix)) from None
    if marker is None:
        raise DataError(
            Problem(
                "the chat template writes no end-of-turn token after an assistant turn, "
                "so a model would not learn to stop",
                "model.chat_template",
                "end assistant turns with the eos token, or use model.chat_template=builtin:chatml",
            )
        )


def marker_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that can end a turn: special and added tokens, which no ordinary text becomes by merging."""
    added: Any = tokenizer.get_added_vocab()  # type: ignore[operator]
    return frozenset([*tokenizer.all_special_ids, *added.values()])


def _require_names(text: str, functions: Sequence[Any], what: str) -> None:
    """Refuse a template that passes over tools in silence: what it does not write is not trained."""
    for entry in functions:
        name = str(entry.get("function", entry).get("name", ""))
        if name not in text:
            raise TemplateError(
                f"the chat template leaves out {what} ({name})",
                "use a template that knows tools, for example model.chat_template=builtin:chatml",
            )


def _find_prompt(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Message],
    tools: Sequence[Any] | None,
    until: str,
    k: int,
) -> str:
    """The longest generation prompt that the text up to turn k begins with."""
    fitting = [prompt for prompt in _list_prompts(tokenizer, turns, tools) if until.startswith(prompt)]
    if not fitting:
        raise TemplateError(
            f"the chat template's generation prompt is no prefix of what it writes for turn {k}",
            "use a template whose assistant turns begin with it (model.chat_template=builtin:chatml)",
        )
    return max(fitting, key=len)


def _list_prompts(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], tools: Sequence[Any] | None
) -> list[str]:
    """The generation prompt, and last the one without thinking, which may carry an empty thinking block."""
    prompts = [_apply(tokenizer, turns, tools, add_generation_prompt=True)]
    if "enable_thinking" in str(tokenizer.chat_template):
        prompts.append(_apply(tokenizer, turns, tools, add_generation_prompt=True, enable_thinking=False))
    return prompts


def _apply(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], tools: Sequence[Any] | None, **options: Any
) -> str:
    """The template's text; what a template refuses becomes a `TemplateError`."""
    import jinja2

    try:
        text = tokenizer.apply_chat_template(
            [_without_media(turn) for turn in turns],
            tools=list(tools) if tools else None,
            tokenize=False,
            **options,
        )
    except (jinja2.TemplateError, TypeError) as error:
        raise TemplateError(
            f"the chat template refuses the conversation: {error}",
            "order the turns as the template expects, or use model.chat_template=builtin:chatml",
        ) from None
    return str(text)


def _without_media(turn: Message) -> dict[str, Any]:
    """A turn as templates know it: of a picture only that it is one."""
    content = turn.get("content")
    if not isinstance(content, tuple):
        return dict(turn)
    parts = [dict(part) if part["type"] == "text" else {"type": part["type"]} for part in content]
    return {**turn, "content": parts}
