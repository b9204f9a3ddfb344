"""Conversations of the Chit Chat Challenge as rows of messages.

The package has for each conversation a list of turns, each a list of utterances of one sender. Here a turn is its
utterances with spaces between them; the first sender is the user, the other the assistant. A conversation ends with its
last answer. This file reads no file and writes none: `fetch_assets.py` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

ROLES = ("user", "assistant")


def parse_conversations(content: Mapping[str, Any], limit: int) -> list[dict[str, Any]]:
    """The first conversations that have an answer and two senders who take turns, as rows."""
    rows: list[dict[str, Any]] = []
    for conversation in content.values():
        turns = list(_parse_turns(conversation["messages"]))
        turns = turns[: len(turns) - len(turns) % 2]
        senders = [sender for sender, _ in turns]
        if turns and senders == [senders[0], senders[1]] * (len(turns) // 2) and senders[0] != senders[1]:
            rows.append({"messages": [{"role": ROLES[k % 2], "content": text} for k, (_, text) in enumerate(turns)]})
        if len(rows) == limit:
            break
    return rows


def _parse_turns(turns: list[list[dict[str, str]]]) -> Iterator[tuple[str, str]]:
    """Sender and text of each turn that says something."""
    for utterances in turns:
        text = " ".join(utterance["text"].strip() for utterance in utterances).strip()
        if text:
            yield utterances[0]["sender"], text
