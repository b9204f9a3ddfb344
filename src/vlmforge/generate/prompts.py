"""Prompts in a JSONL file, answers in another; a job that was cut off goes on where its answers end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmforge.data.bad import forbid_skipping
from vlmforge.data.formats.messages import MESSAGES
from vlmforge.data.formats.turns import list_values, open_part
from vlmforge.data.media import MEND_PATH
from vlmforge.data.sample import Message, Place, content_media
from vlmforge.errors import DataError, Problem
from vlmforge.observe.files import write_json

ANSWER_KEY = "response"

# Of what stands on the command line, where an address is the user's own word.
ASKED = Place("prompt", 0, "command line", may_fetch=True)


@dataclass(frozen=True)
class PromptRow:
    """One line of the input file.

    Attributes:
        row: the object as it stands there; the answer is added to it.
        messages: the turns before the answer.
        place: `file:line`, for messages.
    """

    row: dict[str, Any]
    messages: tuple[Message, ...]
    place: Place


def as_messages(
    prompt: str, images: Sequence[Any] = (), place: Place = ASKED, videos: Sequence[Any] = ()
) -> tuple[Message, ...]:
    """A prompt as a user's turn, after its images and films if there are any.

    Raises:
        DataError: one is neither a path nor an address that may be fetched.
    """
    if not images and not videos:
        return ({"role": "user", "content": prompt},)
    parts = [
        open_part(kind, value, place, f"{kind} {n}")
        for kind, values in (("image", images), ("video", videos))
        for n, value in enumerate(values, 1)
    ]
    return ({"role": "user", "content": (*parts, {"type": "text", "text": prompt})},)


def read_prompts(path: Path) -> list[PromptRow]:
    """Lines with `prompt` (text, with `images` and `videos`, paths, if there are any) or `messages` (turns).

    Relative paths start at the file's folder. Every bad line is reported at once.

    Raises:
        DataError: the file cannot be read, is empty, or has bad lines.
    """
    try:
        # Not splitlines: text may hold other line ends, such as U+2028, within a JSON string.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        problem = Problem(f"input = {path} cannot be read: {error}", str(path), "give a JSONL file with `prompt` lines")
        raise DataError(problem) from error
    rows: list[PromptRow] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = Place(path.name, number - 1, f"{path}:{number}", media_root=str(path.parent))
            try:
                rows.append(_parse(line, place))
            except DataError as error:
                problems.extend(error.problems)
    if not rows and not problems:
        problems.append(Problem(f"input = {path} has no lines", str(path), 'write lines such as {"prompt": "Hello"}'))
    if problems:
        raise DataError(problems)
    return rows


def check_pictures(rows: Iterable[PromptRow]) -> list[Problem]:
    """What is wrong with the pictures and films of prompts, by their files' headers; no model has to be there for it.

    Args:
        rows: the prompts, some perhaps about the same files.
    """
    problems: dict[Problem, None] = {}
    for row in rows:
        mended = f"mend the path; relative ones start at {row.place.media_root or 'the working directory'}"
        for medium in (medium for turn in row.messages for medium in content_media(turn["content"])):
            try:
                medium.read_size()
            except DataError as error:
                for problem in error.problems:
                    fix = mended if problem.fix == MEND_PATH else forbid_skipping(problem.fix)
                    problems[replace(problem, fix=fix)] = None
    return list(problems)


def _parse(line: str, place: Place) -> PromptRow:
    """One line.

    Raises:
        DataError: it is none.
    """
    fix = 'write a line such as {"prompt": "Hello"}'
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(Problem(f"the line is no JSON: {error}", place.where, fix)) from None
    if isinstance(row, dict) and isinstance(row.get("prompt"), str):
        images, videos = list_values(row.get("images")), list_values(row.get("videos"))
        return PromptRow(row, as_messages(row["prompt"], images, place, videos), place)
    messages = row.get("messages") if isinstance(row, dict) else None
    if not (isinstance(messages, list) and messages and all(isinstance(turn, dict) for turn in messages)):
        raise DataError(Problem("the line has neither `prompt` nor `messages`", place.where, fix))
    if messages[-1].get("role") == "assistant":
        what = "the last turn is the assistant's already"
        raise DataError(Problem(what, place.where, "leave out the turn to be generated"))
    has_parts = any(isinstance(turn.get("content"), list) for turn in messages)
    parsed = MESSAGES.parse({"messages": messages}, {}, place).messages if has_parts else tuple(messages)
    assert parsed is not None, "format messages gives messages"
    return PromptRow(row, parsed, place)


def count_answered(path: Path, rows: Sequence[PromptRow], job: Mapping[str, Any]) -> int:
    """How many answers an earlier, cut-off job has left; a half last line is removed.

    Args:
        path: the output file. Beside it, in `<name>.job.json`, stands what made it.
        rows: the prompts.
        job: the checkpoint and the settings, JSON values; written down for the next time.

    Raises:
        DataError: the file holds answers to other prompts, or of another model or other settings.
    """
    beside = path.with_name(f"{path.name}.job.json")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(beside, job)
        return 0
    earlier = _read_job(beside)
    if earlier != job:
        changed = [key for key in job if earlier.get(key) != job[key]]
        said = "; ".join(f"{key} was {earlier.get(key, 'not noted')} and is {job[key]}" for key in changed)
        problem = Problem(
            f"output = {path} exists and was made by another job: {said}",
            str(beside),
            "give another output, or delete the file to begin anew",
        )
        raise DataError(problem)
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    lines = whole.split("\n")[:-1]
    for number, (line, asked) in enumerate(zip(lines, rows, strict=False), start=1):
        if not _answers(line, asked):
            problem = Problem(
                f"output = {path} exists and its answer is not to the prompt of the same line",
                f"{path}:{number}",
                "give another output, or delete the file to begin anew",
            )
            raise DataError(problem)
    if len(lines) > len(rows):
        problem = Problem(
            f"output = {path} exists and has {len(lines)} answers to {len(rows)} prompts",
            str(path),
            "give another output",
        )
        raise DataError(problem)
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return len(lines)


def _read_job(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _answers(line: str, asked: PromptRow) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return isinstance(row, dict) and {key: row[key] for key in row if key != ANSWER_KEY} == {
        key: asked.row[key] for key in asked.row if key != ANSWER_KEY
    }


def answer_line(asked: PromptRow, answer: str) -> str:
    """The line of the output file, with its end."""
    return json.dumps(asked.row | {ANSWER_KEY: answer}, ensure_ascii=False) + "\n"
