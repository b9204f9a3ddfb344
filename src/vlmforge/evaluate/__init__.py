"""Scores on held-out samples. The list of tasks imports nothing heavy."""

from collections.abc import Mapping

from vlmforge.evaluate.exact_match import EXACT_MATCH
from vlmforge.evaluate.gsm8k import GSM8K
from vlmforge.evaluate.task import Task

TASKS: Mapping[str, Task] = {task.name: task for task in (EXACT_MATCH, GSM8K)}
