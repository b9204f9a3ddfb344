"""What is written is read back as the same value, by the loader that recipes go through."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from vlmforge.config.encode import assignment, encode_absolute, scalar_text, to_yaml
from vlmforge.config.schema import Config, DataConfig, SourceConfig

TRAPS = [
    "1e-5",
    "yes",
    "null",
    "~",
    "",
    " a",
    "a: b",
    "a #b",
    "${x}",
    "a\\b",
    '"',
    "it's",
    "0x1f",
    "1_000",
    ".inf",
    "-",
]
TRAPS += ["2020-01-01", "12:30", "!x", "&a", "*a", "[a", "line\nbreak", "builtin:bytes", "\u00e9", "TRUE", "off", "1."]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


def read_back(value: object) -> object:
    loaded = OmegaConf.create(to_yaml({"key": value}))
    return OmegaConf.to_container(loaded, resolve=True)["key"]  # type: ignore[index, call-overload]


@pytest.mark.parametrize("text", TRAPS)
def test_text_that_looks_like_something_else_stays_text(text: str) -> None:
    assert read_back(text) == text
    assert read_back([text]) == [text]


@given(st.lists(SCALARS | st.text(alphabet=st.characters(blacklist_categories=["Cs", "Cc"]))))
def test_any_value_is_read_back(values: list[object]) -> None:
    values = [value for value in values if not (isinstance(value, str) and ("${" in value or "\\" in value))]
    assert read_back(values) == values


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (None, "null"), (1e-5, "1e-5"), (0.1, "0.1"), ([1, "a"], "[1, a]"), ({"a": 1}, "{a: 1}")],
)
def test_values_are_written_as_a_person_would(value: object, text: str) -> None:
    assert scalar_text(value) == text


def test_an_assignment_can_be_pasted_into_a_shell() -> None:
    assert assignment("a.b", [1]) == "'a.b=[1]'"
    assert assignment("a.b", 1e-5) == "a.b=1e-5"


def test_a_run_stores_absolute_paths_of_what_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").touch()
    config = Config(
        data=DataConfig(train=(SourceConfig(path=("rows.jsonl", "org/name", "builtin:text"), format="text"),))
    )
    values = encode_absolute(config)
    assert values["data"]["train"][0]["path"] == [str(tmp_path / "rows.jsonl"), "org/name", "builtin:text"]
    assert values["run"]["output_dir"] == str(tmp_path / "runs")
