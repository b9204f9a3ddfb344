"""Format `messages`: a conversation in OpenAI's shape, with images and with tools if there are any.

Pictures and films stand in the turns themselves, or, as in verl's rows, in the columns `images` and `videos`, in the
order of the tags `<image>` and `<video>` (or of empty parts) in the turns.

Column stores fill the fields that a turn does not have with nulls; those are dropped, so that a template sees
the turn as it was written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vlmforge.data.bad import tell_json_error
from vlmforge.data.formats.base import Format, Guidance
from vlmforge.data.formats.turns import merge_media, open_part, open_parts
from vlmforge.data.sample import Content, Message, Place, Sample, content_media, content_text
from vlmforge.errors import one_of

ROLES = ("system", "user", "assistant", "tool")
MEDIA = ("image", "video")


def _parse(fields: Mapping[str, Any], place: Place, guidance: Guidance) -> Sample:
    """A sample of a conversation."""
    turns = decode_list(fields["messages"], "messages", place)
    if not turns:
        raise place.error("messages is an empty list", "give the conversation at least one turn", "empty")
    messages = tuple(_parse_turn(turn, f"messages[{k}]", place) for k, turn in enumerate(turns))
    if any(_has_placeholder(turn) for turn in turns) or fields.get("images") or fields.get("videos"):
        images = open_parts("image", fields.get("images"), place, "images")
        messages = merge_media(messages, images, open_parts("video", fields.get("videos"), place, "videos"), place)
    return Sample(
        place,
        messages=messages,
        tools=read_tools(fields, place),
    )


def decode_list(value: Any, column: str, place: Place) -> list[Any]:
    """A list of objects, given as such or as a JSON string."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else []
        except json.JSONDecodeError as error:
            raise place.error(
                f"{column} is no JSON: {tell_json_error(error)}", f"write {column} as a list of objects"
            ) from None
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
    if turn["role"] == "assistant" and not turn.get("tool_calls"):
        _require_answer(turn["content"], f"{name}.content", place)
    if "tool_calls" in turn:
        calls = decode_list(turn["tool_calls"], f"{name}.tool_calls", place)
        turn["tool_calls"] = [_parse_tool_call(call, f"{name}.tool_calls", place) for call in calls]
    return turn


def _require_answer(content: Content, name: str, place: Place) -> None:
    """An answer that says something; nothing can be learnt from another."""
    if not content_text(content).strip() and not content_media(content):
        fix = "give the answer some text, or leave such rows out with  data.on_bad_sample=skip"
        raise place.error(f"{name} is empty, and it is an answer", fix, "empty")


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
                value = _media_value(part, medium)
                if value is None:
                    return {"type": "text", "text": f"<{medium}>"}
                return open_part(medium, value, place, f"{name}.{medium}")
    raise place.error(
        f"{name} is a part of type {kind}; text, image and video are read",
        'for example  {"type": "text", "text": "..."} or {"type": "image", "image": "cat.png"}',
    )


def _media_value(part: Mapping[str, Any], medium: str) -> Any:
    """Where a part says its picture or film is; None: nowhere, so a column of the row has it."""
    return next((part[key] for key in (medium, f"{medium}_url", "path", "url") if part.get(key) is not None), None)


def _has_placeholder(turn: Mapping[str, Any]) -> bool:
    """Whether a turn has parts whose pictures or films stand in a column of the row, as verl's rows have them."""
    parts = turn.get("content")
    return isinstance(parts, list) and any(
        isinstance(part, Mapping) and part.get("type") == medium and _media_value(part, medium) is None
        for part in parts
        for medium in MEDIA
    )


def read_tools(fields: Mapping[str, Any], place: Place) -> tuple[Mapping[str, Any], ...] | None:
    """The functions that a conversation may call; None: no column says any.

    Raises:
        BadSampleError: one has no name.
    """
    tools = decode_list(fields["tools"], "tools", place) if "tools" in fields else []
    return tuple(drop_nulls(_require_function(tool, "tools", place)) for tool in tools) or None


def _parse_tool_call(call: Any, name: str, place: Place) -> dict[str, Any]:
    """One tool call; arguments in a JSON string become an object, which is what chat templates expect."""
    call = _require_function(call, name, place)
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except json.JSONDecodeError as error:
            raise place.error(
                f"{name}: arguments are no JSON: {tell_json_error(error)}", "write them as an object"
            ) from None
    return {"type": "function", **call, "function": {**function, "arguments": arguments}}


def _require_function(entry: Any, name: str, place: Place) -> Mapping[str, Any]:
    """An entry of a list of tools or calls, if it names a function."""
    function = entry.get("function", entry) if isinstance(entry, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise place.error(
            f"{name} has an entry without a function name",
            'for example  {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}',
        )
    return entry


MESSAGES = Format(name="messages", required=("messages",), optional=("tools", "images", "videos"), parse_fields=_parse)
