import json

import pytest

from vlmforge.data.formats import FORMATS
from vlmforge.data.sample import Place
from vlmforge.errors import DataError

PLACE = Place("s", 4, "file.jsonl:5")
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def parse(format, row, **columns):
    return FORMATS[format].parse(row, columns, PLACE)


def problem_of(format, row, **columns):
    with pytest.raises(DataError) as caught:
        parse(format, row, **columns)
    (problem,) = caught.value.problems
    assert problem.where == "file.jsonl:5 (sample s#4)"
    return problem


def test_columns_are_found_by_dotted_paths():
    row = {"extra": {"question": "q", "answer": "a"}, "dotted.key": "b"}
    sample = parse("prompt_response", row, prompt="extra.question", response="dotted.key")
    assert (sample.prompt, sample.response) == ("q", "b")


def test_an_absent_column_lists_those_there_are_and_the_nearest():
    problem = problem_of("prompt_response", {"prompts": "q", "extra": {"response": "a"}}, response="extra.response")
    assert "the row has prompts, extra.response" in problem.what
    assert "columns: {prompt: prompts}" in problem.fix


@pytest.mark.parametrize(("value", "words"), [(None, "is null"), (3, "type int"), (" ", "is empty")])
def test_a_value_that_is_no_text_is_refused(value, words):
    assert words in problem_of("text", {"text": value}).what


def test_null_fields_of_column_stores_are_dropped():
    turns = [turn | {"tool_calls": None, "name": None} for turn in TURNS]
    assert parse("messages", {"messages": turns}).messages == tuple(TURNS)


def test_messages_and_tools_may_be_json_strings():
    tools = [{"type": "function", "function": {"name": "f"}}]
    sample = parse("messages", {"messages": json.dumps(TURNS), "tools": json.dumps(tools)})
    assert sample.messages == tuple(TURNS)
    assert sample.tools == tuple(tools)


def test_a_list_of_text_parts_becomes_one_string():
    turns = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert parse("messages", {"messages": turns}).messages[0]["content"] == "ab"


def test_arguments_in_a_json_string_become_an_object_and_keep_their_nulls():
    call = {"id": "1", "function": {"name": "f", "arguments": '{"a": null}'}}
    turns = [TURNS[0], {"role": "assistant", "content": None, "tool_calls": [call]}]
    turn = parse("messages", {"messages": turns}).messages[1]
    assert turn["content"] == ""
    assert turn["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": None}}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "empty list"),
        ("no json", "is no JSON"),
        ([1], "not a list of objects"),
        ([{"role": "human", "content": "x"}], "messages[0].role = 'human' must be system, user, assistant or tool"),
        ([{"role": "user"}], "messages[0].content is absent"),
        ([{"role": "user", "content": 1}], "of type int"),
        ([{"role": "user", "content": [{"type": "sound"}]}], "a part of type sound"),
        ([{"role": "assistant", "content": "", "tool_calls": [{"x": 1}]}], "without a function name"),
    ],
)
def test_a_conversation_in_another_shape_is_refused(messages, words):
    assert words in problem_of("messages", {"messages": messages}).what


def test_a_task_asks_what_stands_before_the_last_answer():
    more = [*TURNS, {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "See you"}]
    assert parse("messages", {"messages": more}).as_task() == (tuple(more[:3]), "See you")
    pair = parse("prompt_response", {"prompt": "q", "response": "a"})
    assert pair.as_task() == (({"role": "user", "content": "q"},), "a")


def test_a_task_needs_an_answer():
    with pytest.raises(DataError, match="no answer"):
        parse("text", {"text": "x"}).as_task()
