import datetime
import re

import pytest

from vlmforge.data.builtin import BUILTINS, MONTHS
from vlmforge.data.formats import FORMATS
from vlmforge.data.sample import Place


@pytest.mark.parametrize("name", BUILTINS)
def test_built_in_samples_parse_in_their_format_and_are_ascii(name):
    builtin = BUILTINS[name]
    for index in range(min(builtin.num_rows, 200)):
        fields = builtin.fields(index)
        assert fields == builtin.fields(index)
        # What stands in for prepared data is of one of its sample types.
        format = "captioning" if builtin.format == "energon" else builtin.format
        FORMATS[format].parse(fields, {}, Place(name, index, "here"))
        assert str(fields).isascii()


@pytest.mark.parametrize("name", ["text", "prompt_response", "dates"])
def test_built_in_samples_are_distinct(name):
    builtin = BUILTINS[name]
    assert len({str(builtin.fields(index)) for index in range(builtin.num_rows)}) == builtin.num_rows


def test_some_conversations_have_a_system_turn_some_a_tool_turn_some_several_answers():
    roles = [[turn["role"] for turn in BUILTINS["messages"].fields(index)["messages"]] for index in range(64)]
    assert any(row[0] == "system" for row in roles)
    assert any("tool" in row for row in roles)
    assert any(row.count("assistant") > 1 and "tool" not in row for row in roles)


def test_dates_are_right_short_and_never_come_twice():
    seen = set()
    for index in range(BUILTINS["dates"].num_rows):
        fields = BUILTINS["dates"].fields(index)
        date = datetime.date.fromisoformat(fields["response"])
        numbers = {int(number) for number in re.findall(r"\d+", fields["prompt"])}
        assert numbers == {date.year, date.day}
        assert MONTHS[date.month - 1] in fields["prompt"]
        assert len(fields["prompt"]) <= 40
        seen.add(date)
    assert len(seen) == BUILTINS["dates"].num_rows >= 4000
