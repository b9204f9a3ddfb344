"""Format `messages`: a conversation in OpenAI's shape, with images and with tools if there are any.

Column stores fill the fields that a turn does not have with nulls; those are dropped, so that a template sees
the turn as it was written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vlmforge.data.formats.base import Format, Guidance
from vlmforge.data.media import open_media
from vlmforge.data.sample import Content, Message, Place, Sample, content_media, content_text
from vlmforge.errors import one_of

ROLES = ("system", "user", "assistant", "tool")
MEDIA = ("image", "video")


def _parse(fields: Mapping[str, Any], place: Place, guidance: Guidance) -> Sample:
    """A sample of a conversation."""
    turns = _decode_list(fields["messages"], "messages", place)
    if not turns:
        raise place.error("messages is an empty list", "give the conversation at least one turn")
    tools = _decode_list(fields["tools"], "tools", place) if "tools" in fields else []
    return Sample(
        place,
        messages=tuple(_parse_turn(turn, f"messages[{k}]", place) for k, turn in enumerate(turns)),
        tools=tuple(drop_nulls(tool) for tool in tools) or None,
    )


def _decode_list(value: Any, column: str, place: Place) -> list[Any]:
    """A list of objects, given as such or as a JSON string."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else []
        except json.JSONDecodeError as error:
            raise place.error(f"{column} is no JSON: {error}", f"write {column} as a list of objects") from None
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or not all(isinstance(item, Mapping) for item in value):
        raise place.error(
            f"{column} is of type {type(value).__name__}, not a list of objects",
            'for example  "messages": [{"role": "user", "content": "..."}, ...]',
        )
    return list(value)


def drop_nulls(value: Any) -> Any:
    """The same value without null fields in its objects, at every depth."""
    if isinstance(value, Mapping):
        return {key: drop_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [drop_nulls(inner) for inner in value]
    return value


def _parse_turn(raw: Mapping[str, Any], name: str, place: Place) -> Message:
    """One turn with a known role and with content."""
    turn = drop_nulls(raw)
    if turn.get("role") not in ROLES:
        raise place.error(
            f"{name}.role = {turn.get('role')!r} must be {one_of(ROLES)}",
            'for example  {"role": "user", "content": "..."}',
        )
    turn["content"] = _parse_content(turn, name, place)
    if "tool_calls" in turn:
        turn["tool_calls"] = [_parse_tool_call(call, f"{name}.tool_calls", place) for call in turn["tool_calls"]]
    return turn


def _parse_content(turn: Mapping[str, Any], name: str, place: Place) -> Content:
    """The content as one string, or as parts where it has images; a turn that only calls tools may have none."""
    content = turn.get("content")
    if isinstance(content, str):
        return content
    if content is None and turn.get("tool_calls"):
        return ""
    if not isinstance(content, list):
        state = "is absent" if content is None else f"is of type {type(content).__name__}"
        raise place.error(f"{name}.content {state}; it must be a string", "write the turn's text as content")
    parts = tuple(_parse_part(part, f"{name}.content[{k}]", place) for k, part in enumerate(content))
    return parts if content_media(parts) else content_text(parts)


def _parse_part(part: Any, name: str, place: Place) -> Mapping[str, Any]:
    """One part of a content: text, an image or a video."""
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if isinstance(part, Mapping):
        if isinstance(part.get("text"), str) and kind in ("text", "input_text", None):
            return {"type": "text", "text": part["text"]}
        for medium in MEDIA:
            if kind in (medium, f"{medium}_url", f"input_{medium}"):
                value = next((part[key] for key in (medium, f"{medium}_url", "path", "url") if key in part), None)
                return {"type": medium, medium: open_media(value, place, f"{name}.{medium}")}
    raise place.error(
        f"{name} is a part of type {kind}; text, image and video are read",
        'for example  {"type": "text", "text": "..."} or {"type": "image", "image": "cat.png"}',
    )


def _parse_tool_call(call: Any, name: str, place: Place) -> dict[str, Any]:
    """One tool call; arguments in a JSON string become an object, which is what chat templates expect."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise place.error(
            f"{name} has an entry without a function name",
            'for example  {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}',
        )
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except json.JSONDecodeError as error:
            raise place.error(f"{name}: arguments are no JSON: {error}", "write them as an object") from None
    return {"type": "function", **call, "function": {**function, "arguments": arguments}}


MESSAGES = Format(name="messages", required=("messages",), optional=("tools",), parse_fields=_parse)
