"""GSM8K (Cobbe et al. 2021, arXiv:2110.14168): the number after `####` equals the reference's."""

import re

from vlmforge.evaluate.task import Task

_ANSWER = re.compile(r"####\s*(-?\$?[\d,]*\.?\d+)")


def final_number(text: str) -> float | None:
    """The number after the last `####`, without `$` and thousands separators; None when there is none."""
    found = _ANSWER.findall(text)
    return float(found[-1].replace(",", "").replace("$", "")) if found else None


def is_right(answer: str, reference: str) -> bool:
    """Whether both end in the same number; an answer without one is wrong."""
    number = final_number(answer)
    return number is not None and number == final_number(reference)


GSM8K = Task(name="gsm8k", metric="exact_match", is_right=is_right)
