import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmforge.data.encode import Encoder
from vlmforge.data.render import Renderer, TooLongError, find_end_marker, render_prompt
from vlmforge.data.sample import Place, Sample
from vlmforge.data.template import render_turns
from vlmforge.errors import DataError

PLACE = Place("s", 0, "file.jsonl:1")
ASK = {"role": "user", "content": "What is it?"}


def answer(content, **fields):
    return {"role": "assistant", "content": content, **fields}


def conversation(*turns, tools=None):
    return Sample(PLACE, messages=turns, tools=tools)


def render(tokenizer, sample, labels="assistant", **options):
    return Renderer(tokenizer, labels=labels, seq_len=options.pop("seq_len", 4096), **options).render(sample)


def trained_runs(tokenizer, rendered):
    """Texts of the consecutive runs of trained tokens."""
    runs, previous = [], False
    for token, is_label in zip(rendered.input_ids.tolist(), rendered.is_label.tolist(), strict=True):
        if is_label and not previous:
            runs.append([])
        if is_label:
            runs[-1].append(token)
        previous = is_label
    return [tokenizer.decode(run) for run in runs]


def test_content_and_end_marker_are_trained_and_nothing_else(chatml):
    rendered = render(chatml, conversation(ASK, answer("A kite."), ASK, answer("A boat.")))
    assert trained_runs(chatml, rendered) == ["A kite.<|im_end|>", "A boat.<|im_end|>"]
    assert chatml.decode(rendered.input_ids).endswith("<|im_end|>\n")


def test_an_inst_template_trains_the_space_the_answer_and_eos(byte_level):
    tokenizer = byte_level("inst")
    rendered = render(tokenizer, conversation(ASK, answer("A kite."), ASK, answer("A boat.")))
    assert trained_runs(tokenizer, rendered) == [" A kite. </s>", " A boat. </s>"]
    assert rendered.input_ids.tolist().count(tokenizer.bos_token_id) == 2


def test_bos_is_not_doubled_where_the_template_writes_it(byte_level):
    tokenizer = byte_level("gemma")
    rendered = render(tokenizer, conversation(ASK, answer(" A kite. ")))
    assert trained_runs(tokenizer, rendered) == ["A kite.<end_of_turn>"]
    assert rendered.input_ids.tolist().count(tokenizer.bos_token_id) == 1


def test_an_empty_thinking_block_is_part_of_the_prompt(byte_level):
    tokenizer = byte_level("thinking")
    rendered = render(tokenizer, conversation(ASK, answer("A kite.")))
    assert trained_runs(tokenizer, rendered) == ["A kite.<|im_end|>"]
    prompt = render_prompt([ASK], tokenizer)
    assert tokenizer.decode(prompt).endswith("<think>\n\n</think>\n\n")
    assert rendered.input_ids[: len(prompt)].tolist() == prompt


def test_reasoning_is_trained(byte_level):
    tokenizer = byte_level("thinking")
    rendered = render(tokenizer, conversation(ASK, answer("A kite.", reasoning_content="It flies.")))
    assert trained_runs(tokenizer, rendered) == ["<think>\nIt flies.\n</think>\n\nA kite.<|im_end|>"]


def test_a_template_that_rewrites_earlier_turns_is_refused(byte_level):
    with pytest.raises(DataError, match="writes turn 1 differently once later turns follow") as caught:
        render(byte_level("thinking"), conversation(ASK, answer("A kite."), ASK, answer("A boat.")))
    assert "file.jsonl:1 (sample s#0)" in caught.value.problems[0].where


def test_one_can_go_on_talking_with_a_template_that_rewrites_earlier_turns(byte_level):
    tokenizer = byte_level("thinking")
    prompt = tokenizer.decode(render_prompt([ASK, answer("A kite."), ASK], tokenizer))
    assert prompt.count("<think>") == 1


def test_a_template_without_an_end_marker_is_refused(byte_level):
    tokenizer = byte_level("endless")
    assert find_end_marker(tokenizer) is None
    with pytest.raises(DataError, match="no end-of-turn token"):
        render(tokenizer, conversation(ASK, answer("A kite.")))


def test_a_turn_that_the_template_refuses_names_the_sample(byte_level):
    with pytest.raises(DataError, match="only user and assistant") as caught:
        render(byte_level("inst"), conversation({"role": "system", "content": "x"}, ASK, answer("y")))
    assert "s#0" in caught.value.problems[0].where


@pytest.mark.parametrize(
    ("template", "marker"),
    [("chatml", "<|im_end|>"), ("inst", "</s>"), ("gemma", "<end_of_turn>"), ("thinking", "<|im_end|>")],
)
def test_the_end_marker_is_what_generation_stops_at(byte_level, template, marker):
    assert find_end_marker(byte_level(template)) == marker


def test_a_tool_call_is_trained_and_its_result_is_not(chatml):
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    tools = ({"type": "function", "function": {"name": "add"}},)
    sample = conversation(
        ASK, answer("", tool_calls=[call]), {"role": "tool", "content": "2"}, answer("Two."), tools=tools
    )
    rendered = render(chatml, sample)
    calls, last = trained_runs(chatml, rendered)
    assert calls.startswith("<tool_call>")
    assert calls.endswith("</tool_call><|im_end|>")
    assert last == "Two.<|im_end|>"
    assert '"name": "add"' in chatml.decode(rendered.input_ids[:60])


def test_a_template_that_leaves_tools_out_is_refused(byte_level):
    tokenizer = byte_level("gemma")
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    with pytest.raises(DataError, match=r"leaves out the tool calls of turn 1 \(add\)"):
        render(tokenizer, conversation(ASK, answer("", tool_calls=[call])))
    with pytest.raises(DataError, match="leaves out tool descriptions"):
        render(tokenizer, conversation(ASK, answer("x"), tools=({"function": {"name": "add"}},)))


def test_plain_text_ends_with_eos_once(byte_level):
    tokenizer = byte_level(None)
    rendered = render(tokenizer, Sample(PLACE, text="the answer"), labels="all")
    assert tokenizer.decode(rendered.input_ids) == "the answer</s>"
    assert rendered.is_label.all()
    doubled = render(tokenizer, Sample(PLACE, text="the answer</s>"), labels="all")
    assert doubled.input_ids.tolist() == rendered.input_ids.tolist()


def test_without_a_template_a_pair_is_prompt_response_and_eos(byte_level):
    tokenizer = byte_level(None)
    rendered = render(tokenizer, Sample(PLACE, prompt="What is", response=" the answer"))
    assert trained_runs(tokenizer, rendered) == [" the answer</s>"]
    prompt = render_prompt([{"role": "user", "content": "What is"}], tokenizer)
    assert rendered.input_ids[: len(prompt)].tolist() == prompt


def test_messages_without_a_template_are_refused(byte_level):
    with pytest.raises(DataError, match="no chat template"):
        render(byte_level(None), conversation(ASK, answer("x")))


def test_labels_all_trains_every_token(chatml):
    rendered = render(chatml, conversation(ASK, answer("A kite.")), labels="all")
    assert rendered.is_label.all()
    assert rendered.num_label_tokens == rendered.num_tokens - 1


def test_plain_text_without_labels_says_what_to_set(chatml):
    with pytest.raises(DataError) as caught:
        render(chatml, Sample(PLACE, text="some words"))
    assert caught.value.problems[0].fix == "stage.labels=all"


def test_a_sample_that_is_too_long_is_refused_or_cut_at_its_end(chatml):
    sample = conversation(ASK, answer("no " * 50))
    whole = render(chatml, sample)
    with pytest.raises(TooLongError, match=r"more than stage\.seq_len = 40"):
        render(chatml, sample, seq_len=40)
    cut = render(chatml, sample, seq_len=40, is_truncating=True)
    assert cut.was_truncated
    assert cut.input_ids.tolist() == whole.input_ids[:40].tolist()


def test_a_sample_whose_labels_are_all_cut_away_is_bad(chatml):
    with pytest.raises(DataError, match="no label is left"):
        render(chatml, conversation(ASK, answer("x")), seq_len=8, is_truncating=True)


def test_a_conversation_without_an_answer_is_bad(chatml):
    with pytest.raises(DataError, match="no assistant turn"):
        render(chatml, conversation(ASK))


def test_a_prompt_that_ends_with_a_space_keeps_its_own_tokens(byte_level):
    tokenizer = byte_level("spaced")
    sample = conversation(ASK, answer("the answer"))
    prompt = render_prompt([ASK], tokenizer)
    rendered = render(tokenizer, sample)
    whole = tokenizer(tokenizer.decode(rendered.input_ids), add_special_tokens=False)["input_ids"]
    assert whole[: len(prompt)] != prompt, "the case is not the one this test is for"
    assert rendered.input_ids[: len(prompt)].tolist() == prompt
    assert trained_runs(tokenizer, rendered) == ["the answer</s>"]


@pytest.mark.parametrize("template", ["chatml", "inst", "gemma", "spaced"])
@pytest.mark.parametrize("kind", ["byte_level", "metaspace"])
def test_pieces_of_a_conversation_have_the_tokens_of_the_whole(request, kind, template):
    tokenizer = request.getfixturevalue(kind)(template)
    encoder = Encoder(tokenizer)
    by_pieces = []
    for said in ("the answer", " is\n", "<s>no</s> the", "\n\n42", "<|im_end|>", "é the answer is"):
        turns = [ASK, answer(said), {"role": "user", "content": said}, answer(f"{said} no")]
        rendered = render_turns(tokenizer, turns, None)
        pieces = encoder._encode_pieces(rendered.text, rendered.spans)
        by_pieces.append(pieces is not None)
        assert pieces in (None, encoder._encode_whole(rendered.text, rendered.spans))
    assert any(by_pieces) or template not in ("chatml", "gemma")


words = st.text(st.sampled_from("the answer is no\n  .42é"), min_size=1, max_size=25).filter(str.strip)


@settings(max_examples=60)
@given(turns=st.lists(st.tuples(words, words), min_size=1, max_size=3))
@pytest.mark.parametrize("template", ["chatml", "inst", "gemma", "spaced"])
@pytest.mark.parametrize("kind", ["byte_level", "metaspace"])
def test_what_generation_starts_from_is_a_prefix_of_what_is_trained(request, kind, template, turns):
    tokenizer = request.getfixturevalue(kind)(template)
    messages = [turn for asked, said in turns for turn in ({"role": "user", "content": asked}, answer(said))]
    rendered = render(tokenizer, conversation(*messages))
    ids, marks = rendered.input_ids.tolist(), rendered.is_label.tolist()
    for k in range(1, len(messages), 2):
        prompt = render_prompt(messages[:k], tokenizer)
        assert ids[: len(prompt)] == prompt
        assert not marks[len(prompt) - 1]
        assert marks[len(prompt)]
    assert tokenizer.decode(ids[-2:]).strip().endswith(find_end_marker(tokenizer))
