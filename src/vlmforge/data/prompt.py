"""What generation starts from: the tokens of a conversation that waits for its answer, and its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmforge.data.film import unroll_films
from vlmforge.data.images import ImageRule, expand_images
from vlmforge.data.render import measure_pictures, render_prompt
from vlmforge.data.sample import ImageSpan, Message, Place, content_media

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """A conversation up to an answer.

    Attributes:
        ids: its tokens, those of pictures included.
        images: its pictures, in the order of their tokens.
    """

    ids: tuple[int, ...]
    images: tuple[ImageSpan, ...] = ()


def render_request(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    image_rule: ImageRule | None,
    place: Place,
    tools: Sequence[Any] | None = None,
) -> Prompt:
    """The prompt of a conversation; the same one in training begins with exactly these tokens.

    Args:
        messages: the turns before the answer.
        tokenizer: a fast tokenizer.
        image_rule: how the model sees pictures; None: it takes text only.
        place: where the conversation stands, for messages.
        tools: tool descriptions for the template.

    Raises:
        DataError: the template cannot render the turns, or a picture is wrong or not taken.
    """
    if image_rule is not None:
        messages = unroll_films(messages, image_rule.num_frames)
    ids = render_prompt(messages, tokenizer, tools)
    media = [medium for turn in messages for medium in content_media(turn["content"])]
    if image_rule is None:
        if media:
            raise place.error("there are images, and the model takes text only", "leave the images out")
        return Prompt(tuple(ids))
    pictures = measure_pictures(media, ids, image_rule, place)
    is_label = [False] * len(ids)
    expanded, _, images = expand_images(ids, is_label, image_rule.placeholder_id, pictures, join=image_rule.join)
    return Prompt(tuple(expanded), images)
