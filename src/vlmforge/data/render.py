"""From a sample to tokens, and which of them are trained.

An assistant turn's content and its end marker are labels, nothing else (`stage.labels=all`: every token).
Labels stay on their own token here; the shift by one happens in `collate.py`.

The ids that generation starts from are a prefix of the ids trained on, for every turn. Text is therefore
tokenized as a whole only where that leaves the prompt's own ids untouched, and cut where a turn starts
otherwise.
"""

# Shapes: S tokens of one sample.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vlmforge.config.schema import Config
from vlmforge.data.bad import BadSampleError
from vlmforge.data.images import ImageLayout, ImageRule, expand_images, fit_length, list_rules
from vlmforge.data.media import Media
from vlmforge.data.sample import ImageSpan, Message, Place, RenderedSample, Sample
from vlmforge.data.template import (
    TemplateError,
    find_end_marker,
    marker_ids,
    render_prompt_turns,
    render_turns,
    require_end_marker,
)
from vlmforge.errors import DataError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Renderer", "TooLongError", "find_end_marker", "render_prompt"]


class TooLongError(BadSampleError):
    """A sample does not fit into `stage.seq_len`."""

    def __init__(self, problem: Problem) -> None:
        """Of its own kind, which `data.on_too_long` decides about."""
        super().__init__(problem, "too_long")


@dataclass(frozen=True)
class _Encoding:
    """Tokens with the place of each in the text."""

    ids: list[int]
    starts: list[int]


class Renderer:
    """Renders samples with one tokenizer and one set of rules."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        labels: Literal["all", "assistant"],
        seq_len: int,
        is_truncating: bool = False,
        image_rule: ImageRule | None = None,
        is_shrinking: bool = False,
    ) -> None:
        """Keep the rules, and check once that the chat template ends its turns.

        Args:
            tokenizer: a fast tokenizer (offsets are needed).
            labels: `stage.labels`.
            seq_len: longest sample in tokens.
            is_truncating: cut the end of longer samples instead of refusing them.
            image_rule: how the model sees pictures; None: it takes text only.
            is_shrinking: give the pictures of longer samples fewer tokens.

        Raises:
            DataError: the chat template writes no end marker after an assistant turn.
        """
        self._tokenizer = tokenizer
        self._labels = labels
        self._seq_len = seq_len
        self._is_truncating = is_truncating
        self._image_rule = image_rule
        self._smaller_rules = list_rules(image_rule)[1:] if image_rule is not None and is_shrinking else []
        self._marker_ids = marker_ids(tokenizer)
        if tokenizer.chat_template and labels == "assistant":
            require_end_marker(tokenizer)

    def render(self, sample: Sample) -> RenderedSample:
        """Make tokens and labels of a sample.

        Raises:
            TooLongError: it is longer than `seq_len` and may not be cut.
            DataError: the template cannot render it, or no token of it is trained.
        """
        ids, is_label = self._tokenize(sample)
        if self._labels == "all":
            is_label = [True] * len(ids)
        ids, is_label, images = self._expand(sample, ids, is_label)
        length = len(ids)
        was_truncated = length > self._seq_len
        if was_truncated:
            if not self._is_truncating:
                raise TooLongError(_too_long_problem(sample.place, length, self._seq_len, has_images=bool(images)))
            tags = self._image_rule.tag_ids if self._image_rule is not None else frozenset[int]()
            length = fit_length(ids, images, tags, self._seq_len)
        place = sample.place
        rendered = RenderedSample(
            np.array(ids[:length], np.int32),
            np.array(is_label[:length], np.bool_),
            place.source,
            place.index,
            was_truncated,
            tuple(span for span in images if span.stop <= length),
        )
        if not rendered.num_label_tokens:
            raise place.error(*_explain_no_label(sample, was_truncated), "no_label")
        return rendered

    def _expand(
        self, sample: Sample, ids: list[int], is_label: list[bool]
    ) -> tuple[list[int], list[bool], tuple[ImageSpan, ...]]:
        """Ids and labels with the tokens of pictures in the place of their placeholders."""
        media, rule = sample.media(), self._image_rule
        if rule is None:
            if media:
                raise sample.place.error(
                    "the sample has images, and the model takes text only",
                    "choose a model that sees (model=qwen3_vl_2b), or leave the images out",
                )
            return ids, is_label, ()
        pictures = measure_pictures(media, ids, rule, sample.place)
        expanded = expand_images(ids, is_label, rule.placeholder_id, pictures)
        for number, smaller in enumerate(self._smaller_rules if media else (), 1):
            if len(expanded[0]) <= self._seq_len:
                break
            pictures = measure_pictures(media, ids, smaller, sample.place)
            expanded = expand_images(ids, is_label, rule.placeholder_id, pictures, number)
        return expanded

    def _tokenize(self, sample: Sample) -> tuple[list[int], list[bool]]:
        """Ids and labels before any cut, with one placeholder for each picture."""
        if sample.text is not None:
            return self._tokenize_text(sample.text, sample.place)
        if self._tokenizer.chat_template:
            return self._tokenize_turns(sample)
        if sample.prompt is not None and sample.response is not None:
            return self._tokenize_pair(sample.prompt, sample.response, sample.place)
        raise sample.place.error(
            "the tokenizer has no chat template, which format messages needs",
            "model.chat_template=builtin:chatml",
        )

    def _tokenize_text(self, text: str, place: Place) -> tuple[list[int], list[bool]]:
        """BOS as the tokenizer does, the text, eos once. Only `labels=all` trains it."""
        eos = self._require_eos(place)
        ids = list(self._tokenizer(text)["input_ids"])
        if ids[-1] != eos:
            ids.append(eos)
        return ids, [False] * len(ids)

    def _tokenize_pair(self, prompt: str, response: str, place: Place) -> tuple[list[int], list[bool]]:
        """Prompt, response, eos: what a base model without a chat template is trained on."""
        eos = self._require_eos(place)
        encoding, (start,) = _encode_turns(self._tokenizer, prompt + response, [len(prompt)], is_template=False)
        ids = [*encoding.ids, eos]
        return ids, [k >= start for k in range(len(ids))]

    def _tokenize_turns(self, sample: Sample) -> tuple[list[int], list[bool]]:
        """The chat template's text; labels are the assistant turns with their end marker."""
        try:
            turns = render_turns(self._tokenizer, sample.conversation() or (), sample.tools)
        except TemplateError as error:
            raise sample.place.error(error.what, error.fix, "unrenderable") from None
        starts = [start for start, _ in turns.spans]
        encoding, first_tokens = _encode_turns(self._tokenizer, turns.text, starts)
        is_label = [False] * len(encoding.ids)
        for (_, end), first in zip(turns.spans, first_tokens, strict=True):
            last = first
            while last < len(encoding.ids) and encoding.starts[last] < end:
                is_label[last] = True
                last += 1
            marker_end = len(turns.text[:end].rstrip())
            marker = next(k for k in reversed(range(last)) if encoding.starts[k] < marker_end)
            if self._labels == "assistant" and encoding.ids[marker] not in self._marker_ids:
                raise sample.place.error(
                    "the chat template ends an assistant turn without an end-of-turn token",
                    "end them with the tokenizer's eos token, or use model.chat_template=builtin:chatml",
                )
        return encoding.ids, is_label

    def _require_eos(self, place: Place) -> int:
        """The id of the eos token."""
        eos: Any = self._tokenizer.eos_token_id
        if eos is None:
            raise place.error("the tokenizer has no eos token to end a text with", "choose another model.tokenizer")
        return int(eos)


def build_renderer(config: Config, tokenizer: PreTrainedTokenizerBase, image_rule: ImageRule | None = None) -> Renderer:
    """The renderer of a recipe.

    Raises:
        DataError: the chat template writes no end marker after an assistant turn.
    """
    return Renderer(
        tokenizer,
        labels=config.stage.labels,
        seq_len=config.stage.seq_len,
        is_truncating=config.data.on_too_long == "truncate",
        image_rule=image_rule,
        is_shrinking=config.data.shrink_images,
    )


def measure_pictures(
    media: Sequence[Media], ids: Sequence[int], rule: ImageRule, place: Place
) -> list[tuple[Media, ImageLayout]]:
    """The pictures of a text with what each becomes, from their headers alone.

    Raises:
        DataError: a picture cannot be measured, or the text has more or fewer placeholders than there are pictures.
    """
    found = list(ids).count(rule.placeholder_id)
    if found != len(media):
        raise place.error(
            f"the text has {found} image placeholders for {len(media)} images",
            "use a chat template that writes one for each image, and do not spell the placeholder in the text",
        )
    pictures: list[tuple[Media, ImageLayout]] = []
    for one in media:
        width, height = one.read_size()
        try:
            pictures.append((one, rule.measure(width, height)))
        except ValueError as error:
            raise place.error(
                f"{one.name}: a picture of {width} x {height} pixels is not taken: {error}",
                "crop it, or leave such samples out with  data.on_bad_sample=skip",
                "oversized_image",
            ) from None
    return pictures


def render_prompt(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, tools: Sequence[Any] | None = None
) -> list[int]:
    """The ids that generation starts from; the same conversation in training begins with exactly these.

    Args:
        messages: the turns before the answer. Without a chat template it must be a single user turn, whose
            content is the prompt as it is.
        tokenizer: a fast tokenizer.
        tools: tool descriptions for the template.

    Raises:
        DataError: the template cannot render the turns.
    """
    try:
        if tokenizer.chat_template:
            turns = render_prompt_turns(tokenizer, messages, tools)
            starts = [*(start for start, _ in turns.spans), len(turns.text)]
            return _encode_turns(tokenizer, turns.text, starts)[0].ids
        if len(messages) == 1:
            text = str(messages[0]["content"])
            return _encode(tokenizer, text, 0, is_template=False).ids
        raise TemplateError(
            "the tokenizer has no chat template for several turns", "model.chat_template=builtin:chatml"
        )
    except TemplateError as error:
        raise DataError(Problem(error.what, "the prompt", error.fix)) from None


def _encode_turns(
    tokenizer: PreTrainedTokenizerBase, text: str, starts: Sequence[int], *, is_template: bool = True
) -> tuple[_Encoding, list[int]]:
    """Tokenize a text so that everything before each start has the ids it would have alone.

    Args:
        tokenizer: a fast tokenizer.
        text: the text.
        starts: characters at which a turn to generate starts, ascending.
        is_template: the text comes from a chat template, which writes BOS itself.

    Returns:
        The tokens, and for each start the number of tokens before it.
    """
    first_tokens: list[int] = []
    done, cut = _Encoding([], []), 0  # the tokens of text[:cut], which are settled

    def extend(stop: int) -> _Encoding:
        tail = _encode(tokenizer, text[cut:stop], cut, is_template=is_template)
        return _Encoding(done.ids + tail.ids, done.starts + tail.starts)

    whole = extend(len(text))
    for start in starts:
        head = whole if start == len(text) else extend(start)
        if whole.ids[: len(head.ids)] != head.ids:
            done, cut = head, start
            whole = extend(len(text))
        first_tokens.append(len(head.ids))
    return whole, first_tokens


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, offset: int, *, is_template: bool) -> _Encoding:
    """Tokens of a piece of text that starts at character `offset`; BOS only outside templates, eos never."""
    add_special_tokens = offset == 0 and not is_template
    tokens = tokenizer(text, add_special_tokens=add_special_tokens, return_offsets_mapping=True)
    ids, starts = list(tokens["input_ids"]), [offset + start for start, _ in tokens["offset_mapping"]]
    if add_special_tokens and ids and ids[-1] == tokenizer.eos_token_id:
        ids, starts = ids[:-1], starts[:-1]
    return _Encoding(ids, starts)


def _too_long_problem(place: Place, num_tokens: int, seq_len: int, *, has_images: bool) -> Problem:
    """A sample that does not fit."""
    return place.problem(
        f"the sample has {num_tokens} tokens, more than stage.seq_len = {seq_len}",
        f"stage.seq_len={num_tokens}, or data.on_too_long=drop, or data.on_too_long=truncate"
        + (", or data.shrink_images=true" if has_images else ""),
    )


def _explain_no_label(sample: Sample, was_truncated: bool) -> tuple[str, str]:
    """Why nothing of a sample is trained, and what helps."""
    if was_truncated:
        return "no label is left once the sample is cut to stage.seq_len", "raise stage.seq_len"
    if sample.text is not None:
        return (
            "plain text has no assistant turn, so stage.labels = assistant trains none of it",
            "stage.labels=all",
        )
    return (
        "the sample has no assistant turn, so nothing of it is trained",
        "give it one, or leave such samples out with  data.on_bad_sample=skip",
    )
