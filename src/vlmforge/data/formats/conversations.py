"""Turns of `from` and `value`, as LLaVA, ShareGPT and energon's conversations have them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vlmforge.data.bad import tell_json_error
from vlmforge.data.formats.messages import decode_list
from vlmforge.data.sample import Message, Place
from vlmforge.errors import one_of


def read_turns(value: Any, column: str, roles: Mapping[str, str], place: Place) -> list[Message]:
    """Turns in OpenAI's shape.

    Args:
        value: a list of `{from, value}` or `{role, content}`, or such a list as JSON.
        column: its name.
        roles: what `from` may say, and the role it stands for.
        place: where the row is.

    Raises:
        BadSampleError: it is something else, or a turn is empty.
    """
    raw = decode_list(value, column, place)
    if not raw:
        raise place.error(f"{column} is an empty list", "give the conversation at least one turn", "empty")
    return [_read_turn(turn, f"{column}[{k}]", roles, place) for k, turn in enumerate(raw)]


def _read_turn(turn: Mapping[str, Any], name: str, roles: Mapping[str, str], place: Place) -> Message:
    """One turn."""
    speaker, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    if not isinstance(speaker, str) or speaker not in roles:
        known = one_of(list(roles))
        raise place.error(
            f"{name}.from = {speaker!r} must be {known}", 'for example  {"from": "human", "value": "..."}'
        )
    if not isinstance(text, str):
        raise place.error(f"{name}.value is of type {type(text).__name__}, not a string", "write the turn's text")
    role = roles[speaker]
    if role == "assistant" and not text.strip():
        fix = "give the answer some text, or leave such rows out with  data.on_bad_sample=skip"
        raise place.error(f"{name}.value is empty, and it is an answer", fix, "empty")
    return _call(text, name, place) if role == "function_call" else {"role": role, "content": text}


def _call(text: str, name: str, place: Place) -> Message:
    """A turn in which the assistant calls a function, written as JSON."""
    try:
        call = json.loads(text)
    except ValueError as error:
        raise place.error(
            f"{name}.value is no JSON: {tell_json_error(error)}", 'write {"name": ..., "arguments": {...}}'
        ) from None
    calls = call if isinstance(call, list) else [call]
    if not all(isinstance(item, Mapping) and "name" in item for item in calls):
        raise place.error(f"{name}.value names no function", 'write {"name": ..., "arguments": {...}}')
    functions = [{"name": item["name"], "arguments": item.get("arguments", {})} for item in calls]
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": function} for function in functions],
    }
