"""Scoring a model on tasks: generate an answer for every held-out sample, count the right ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmforge.config.schema import GenerationConfig
from vlmforge.data.prompt import render_request
from vlmforge.data.sample import Sample, content_text
from vlmforge.evaluate.task import Task
from vlmforge.generate.engine import generate_texts
from vlmforge.generate.load import LoadedModel

# The 97.5% point of the normal distribution, for a two-sided 95% interval.
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Answer:
    """One generated answer, with what it should have been."""

    sample_id: str
    prompt: str
    answer: str
    reference: str


def answer_samples(
    loaded: LoadedModel,
    samples: Sequence[Sample],
    settings: GenerationConfig,
    on_answer: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """The model's answer to every sample.

    Args:
        loaded: the model.
        samples: prompts with references.
        settings: how to generate.
        on_answer: called with the number of answers so far.
    """
    asked = [sample.as_task() for sample in samples]
    prompts = [
        render_request(turns, loaded.tokenizer, loaded.image_rule, sample.place, sample.tools)
        for (turns, _), sample in zip(asked, samples, strict=True)
    ]
    answers: list[Answer] = []
    for text in generate_texts(loaded, prompts, settings):
        turns, reference = asked[len(answers)]
        answers.append(Answer(samples[len(answers)].sample_id, content_text(turns[-1]["content"]), text, reference))
        on_answer(len(answers))
    return answers


def score(task: Task, answers: Sequence[Answer]) -> dict[str, Any]:
    """The share of right answers with its 95% interval, and every answer, as JSON values."""
    marks = [task.is_right(answer.answer, answer.reference) for answer in answers]
    low, high = wilson_interval(sum(marks), len(marks))
    return {
        task.metric: sum(marks) / max(1, len(marks)),
        "interval_95": [low, high],
        "num_right": sum(marks),
        "num_samples": len(marks),
        "answers": [asdict(answer) | {"is_right": mark} for answer, mark in zip(answers, marks, strict=True)],
    }


def wilson_interval(num_right: int, num_samples: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927): sound for small counts and for 0 or all right."""
    if num_samples == 0:
        return 0.0, 1.0
    share = num_right / num_samples
    spread = Z95**2 / num_samples
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * math.sqrt(share * (1 - share) / num_samples + spread / (4 * num_samples))
    return max(0.0, centre - half), min(1.0, centre + half)
