"""From a sample to tokens, and which of them are trained.

An assistant turn's content and its end marker are labels, nothing else (`stage.labels=all`: every token).
Labels stay on their own token here; the shift by one happens in `collate.py`, tokenizing in `encode.py`.
"""

# Shapes: S tokens of one sample.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vlmforge.config.schema import Config
from vlmforge.data.bad import BadSampleError
from vlmforge.data.encode import Encoder
from vlmforge.data.film import Film, Frame, unroll_films
from vlmforge.data.images import ImageRule, Measured, expand_images, fit_length, list_rules, shrink
from vlmforge.data.media import Media
from vlmforge.data.sample import TAKES_TEXT_ONLY, ImageSpan, Message, Place, RenderedSample, Sample
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
        weighs_turns: bool = False,
    ) -> None:
        """Keep the rules, and check once that the chat template ends its turns.

        Args:
            tokenizer: a fast tokenizer (offsets are needed).
            labels: `stage.labels`.
            seq_len: longest sample in tokens.
            is_truncating: cut the end of longer samples instead of refusing them.
            image_rule: how the model sees pictures; None: it takes text only.
            is_shrinking: give the pictures of longer samples fewer tokens.
            weighs_turns: `stage.loss.weighting` is sqrt_turns.

        Raises:
            DataError: the chat template writes no end marker after an assistant turn.
        """
        self._tokenizer = tokenizer
        self._encoder = Encoder(tokenizer)
        self._labels = labels
        self._seq_len = seq_len
        self._is_truncating = is_truncating
        self._image_rule = image_rule
        self._weighs_turns = weighs_turns
        self._max_shrinks = len(list_rules(image_rule)) - 1 if image_rule is not None and is_shrinking else 0
        self._marker_ids = marker_ids(tokenizer)
        if tokenizer.chat_template and labels == "assistant":
            require_end_marker(tokenizer)

    def render(self, sample: Sample) -> RenderedSample:
        """Make tokens and labels of a sample.

        Raises:
            TooLongError: it is longer than `seq_len` and may not be cut.
            DataError: the template cannot render it, or no token of it is trained.
        """
        if self._image_rule is not None and sample.messages is not None:
            sample = replace(sample, messages=unroll_films(sample.messages, self._image_rule.num_frames))
        ids, is_label = self._tokenize(sample)
        if self._labels == "all":
            is_label = [True] * len(ids)
        ids, is_label, images = self._expand(sample, ids, is_label)
        length = len(ids)
        was_truncated = length > self._seq_len
        if was_truncated:
            if not self._is_truncating:
                would_shrink = bool(images) and self._max_shrinks == 0
                raise TooLongError(_too_long_problem(sample.place, length, self._seq_len, would_shrink=would_shrink))
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
            self._weighs_turns,
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
                raise sample.place.error(*TAKES_TEXT_ONLY)
            return ids, is_label, ()
        pictures = measure_pictures(media, ids, rule, sample.place)
        expanded = expand_images(ids, is_label, rule.placeholder_id, pictures, rule.masks_next, rule.join)
        for number in range(1, self._max_shrinks + 1 if media else 0):
            if len(expanded[0]) <= self._seq_len:
                break
            pictures = measure_pictures(media, ids, rule, sample.place, number)
            expanded = expand_images(ids, is_label, rule.placeholder_id, pictures, rule.masks_next, rule.join)
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
        encoding, (start,) = self._encoder.encode_turns(prompt + response, [len(prompt)], is_template=False)
        ids = [*encoding.ids, eos]
        return ids, [k >= start for k in range(len(ids))]

    def _tokenize_turns(self, sample: Sample) -> tuple[list[int], list[bool]]:
        """The chat template's text; labels are the assistant turns with their end marker."""
        try:
            turns = render_turns(self._tokenizer, sample.conversation() or (), sample.tools)
        except TemplateError as error:
            raise sample.place.error(error.what, error.fix, "unrenderable") from None
        ids, spans = self._encoder.encode_spans(turns.text, turns.spans)
        is_label = [False] * len(ids)
        for span in spans:
            is_label[span.first : span.stop] = [True] * (span.stop - span.first)
            if self._labels == "assistant" and ids[span.marker] not in self._marker_ids:
                raise sample.place.error(
                    "the chat template ends an assistant turn without an end-of-turn token",
                    "end them with the tokenizer's eos token, or use model.chat_template=builtin:chatml",
                )
        return ids, is_label

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
        weighs_turns=config.stage.loss.weighting == "sqrt_turns",
    )


def measure_pictures(
    media: Sequence[Media | Film | Frame], ids: Sequence[int], rule: ImageRule, place: Place, num_shrinks: int = 0
) -> list[Measured]:
    """The pictures of a text with what each becomes, from their headers alone.

    Args:
        media: the pictures; films have become theirs before.
        ids: the text with one placeholder for each.
        rule: how the model sees them.
        place: where the sample is.
        num_shrinks: how often the rule is shrunk; frames of films have their own least number.

    Raises:
        DataError: a picture cannot be measured, or the text has more or fewer placeholders than there are pictures.
    """
    found = list(ids).count(rule.placeholder_id)
    if found != len(media):
        raise place.error(
            f"the text has {found} image placeholders for {len(media)} images",
            "use a chat template that writes one for each image, and do not spell the placeholder in the text",
        )
    pictures: list[Measured] = []
    for one in media:
        assert not isinstance(one, Film), "a film that was not unrolled"
        width, height = one.read_size()
        least = rule.frame_shrinks if isinstance(one, Frame) else 0
        shrinks = max(num_shrinks, least)
        try:
            pictures.append(Measured(one, shrink(rule, shrinks).measure(width, height), shrinks, least))
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
            return Encoder(tokenizer).encode_turns(turns.text, starts)[0].ids
        if len(messages) == 1:
            text = str(messages[0]["content"])
            return Encoder(tokenizer).encode(text, 0, is_template=False).ids
        raise TemplateError(
            "the tokenizer has no chat template for several turns", "model.chat_template=builtin:chatml"
        )
    except TemplateError as error:
        raise DataError(Problem(error.what, "the prompt", error.fix)) from None


def _too_long_problem(place: Place, num_tokens: int, seq_len: int, *, would_shrink: bool) -> Problem:
    """A sample that does not fit."""
    return place.problem(
        f"the sample has {num_tokens} tokens, more than stage.seq_len = {seq_len}",
        f"stage.seq_len={num_tokens}, or data.on_too_long=drop, or data.on_too_long=truncate"
        + (", or data.shrink_images=true" if would_shrink else ""),
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
