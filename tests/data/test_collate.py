import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlmforge.data.collate import IGNORE_INDEX, collate
from vlmforge.data.sample import RenderedSample


@st.composite
def samples(draw):
    length = draw(st.integers(1, 8))
    ids = draw(st.lists(st.integers(0, 99), min_size=length, max_size=length))
    marks = draw(st.lists(st.booleans(), min_size=length, max_size=length))
    return RenderedSample(np.array(ids, np.int32), np.array(marks, np.bool_), "s", draw(st.integers(0, 9)))


@given(st.lists(st.lists(samples(), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3))
def test_a_label_is_the_next_input_of_the_same_sample_wherever_that_is_trained(rows):
    batch = collate(rows)
    flat = [sample for row in rows for sample in row]
    inputs, labels = batch.input_ids[0].tolist(), batch.labels[0].tolist()
    borders = batch.cu_seq_lens.tolist()
    assert borders[-1] == len(inputs) == batch.num_tokens
    for sample, start, stop in zip(flat, borders, borders[1:], strict=False):
        assert inputs[start:stop] == sample.input_ids.tolist()
        assert batch.position_ids[0, start:stop].tolist() == list(range(stop - start))
        for t in range(start, stop - 1):
            assert labels[t] == (inputs[t + 1] if sample.is_label[t + 1 - start] else IGNORE_INDEX)
        assert labels[stop - 1] == IGNORE_INDEX
    assert batch.num_label_tokens == sum(label != IGNORE_INDEX for label in labels)
    assert batch.max_seq_len == max(sample.num_tokens for sample in flat)


def test_no_rows_give_one_token_without_a_label():
    batch = collate([])
    assert batch.input_ids.shape == batch.labels.shape == batch.position_ids.shape == (1, 1)
    assert batch.labels.tolist() == [[IGNORE_INDEX]]
    assert batch.cu_seq_lens.tolist() == [0, 1]
    assert (batch.num_tokens, batch.num_label_tokens, batch.max_seq_len, batch.sample_ids) == (0, 0, 1, ())


def test_tensors_have_the_types_that_attention_and_embedding_want():
    batch = collate([]).to("cpu")
    assert batch.input_ids.dtype == batch.labels.dtype == batch.position_ids.dtype == torch.int64
    assert batch.cu_seq_lens.dtype == torch.int32
