import pytest

from vlmforge.evaluate import TASKS
from vlmforge.evaluate.gsm8k import final_number
from vlmforge.evaluate.score import Answer, score, wilson_interval


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so it is 5.\n#### 18", 18),
        ("#### 1,250", 1250),
        ("#### $3.50", 3.5),
        ("#### -7", -7),
        ("#### 1\nno wait\n#### 2", 2),
        ("####42 apples", 42),
        ("the answer is 18", None),
        ("#### none", None),
        ("", None),
    ],
)
def test_the_number_of_a_gsm8k_answer(text: str, number: float | None) -> None:
    assert final_number(text) == number


def test_an_answer_without_a_number_is_wrong_even_against_a_reference_without_one() -> None:
    assert not TASKS["gsm8k"].is_right("no idea", "no number")


def test_exact_match_leaves_white_space_aside() -> None:
    assert TASKS["exact_match"].is_right(" 2020-01-02\n", "2020-01-02")
    assert not TASKS["exact_match"].is_right("2020-01-03", "2020-01-02")


def test_the_interval_is_wilsons() -> None:
    # Values of Brown, Cai and DasGupta (2001) style tables: 0 of 10, 5 of 50.
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(5, 50) == pytest.approx((0.0435, 0.2136), abs=1e-4)
    assert wilson_interval(10, 10)[1] == pytest.approx(1.0)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_a_score_counts_and_keeps_every_answer() -> None:
    answers = [Answer("a#0", "p", "1", "1"), Answer("a#1", "q", "2", "3")]
    result = score(TASKS["exact_match"], answers)
    assert (result["exact_match"], result["num_right"], result["num_samples"]) == (0.5, 1, 2)
    assert [answer["is_right"] for answer in result["answers"]] == [True, False]
