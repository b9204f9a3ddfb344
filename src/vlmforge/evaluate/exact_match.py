"""The answer equals the reference, white space at both ends aside."""

from vlmforge.evaluate.task import Task


def is_right(answer: str, reference: str) -> bool:
    """Whether both are the same text."""
    return answer.strip() == reference.strip()


EXACT_MATCH = Task(name="exact_match", metric="exact_match", is_right=is_right)
