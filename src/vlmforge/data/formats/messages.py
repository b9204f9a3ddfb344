"""Format `messages`: a conversation in OpenAI's shape, with tools if there are any.

Column stores fill the fields that a turn does not have with nulls; those are dropped, so that a template sees
the turn as it was written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vlmforge.data.formats.base import Format
from vlmforge.data.sample import Message, Place, Sample
from vlmforge.errors import one_of

ROLES = ("system", "user", "assistant", "tool")


def _parse(fields: Mapping[str, Any], place: Place) -> Sample:
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
    """One turn with a known role and a string as content."""
    turn = drop_nulls(raw)
    if turn.get("role") not in ROLES:
        raise place.error(
            f"{name}.role = {turn.get('role')!r} must be {one_of(ROLES)}",
            'for example  {"role": "user", "content": "..."}',
        )
    turn["content"] = _join_content(turn, name, place)
    if "tool_calls" in turn:
        turn["tool_calls"] = [_parse_tool_call(call, f"{name}.tool_calls", place) for call in turn["tool_calls"]]
    return turn


def _join_content(turn: Mapping[str, Any], name: str, place: Place) -> str:
    """The content as one string; a turn that only calls tools may have none."""
    content = turn.get("content")
    if isinstance(content, str):
        return content
    if content is None and turn.get("tool_calls"):
        return ""
    if not isinstance(content, list):
        state = "is absent" if content is None else f"is of type {type(content).__name__}"
        raise place.error(f"{name}.content {state}; it must be a string", "write the turn's text as content")
    texts: list[str] = []
    for part in content:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise place.error(f"{name}.content has a part of type {kind}; only text is read", "leave such parts out")
        texts.append(part["text"])
    return "".join(texts)


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
