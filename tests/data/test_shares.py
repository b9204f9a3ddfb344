"""Weights by their unit, ends, and blends inside blends, from the words of a recipe to the sources that are drawn."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmforge.config.schema import SourceConfig
from vlmforge.data.blend import SampleOrder
from vlmforge.data.forecast import forecast
from vlmforge.data.mixture import Length, open_blend
from vlmforge.data.phases import GroupShare, SourceShare


def leaf(rows, **keys):
    return SourceConfig(path=("builtin:dates",), format="prompt_response", rows=(0, rows), **keys)


def order_of(make_config, *sources, lengths=None, **data):
    config = make_config(*sources, data=data)
    return open_blend(config.data, "train").order(config.data, lengths)


def drawn(order, stop, start=0):
    return Counter(order(n)[0] for n in range(start, stop))


def test_weights_in_epochs_bring_every_row_so_often_in_an_epoch(make_config):
    order = order_of(make_config, leaf(7, weight=2), leaf(30, weight=1), leaf(10, weight=0.5), weight_unit="epochs")
    assert order.samples_per_epoch == 14 + 30 + 5
    for epoch in range(3):
        rows = Counter(order(n) for n in range(49 * epoch, 49 * (epoch + 1)))
        assert {count for (source, _), count in rows.items() if source == 0} == {2}
        assert {count for (source, _), count in rows.items() if source == 1} == {1}
        assert sum(count for (source, _), count in rows.items() if source == 2) == 5


def test_weights_in_tokens_divide_tokens(make_config):
    # Of the last, half the rows are left out; what is drawn of it in vain is made up for.
    lengths = {"dates": Length(1000, 10), "dates-2": Length(5000, 25), "dates-3": Length(40, 2, left_out=1)}
    order = order_of(make_config, *(leaf(50, weight=w) for w in (3, 2, 1)), weight_unit="tokens", lengths=lengths)
    counts = order.count(100_000)
    tokens = [count * Fraction(part.tokens, part.rows) for count, part in zip(counts, lengths.values(), strict=True)]
    assert [float(part / sum(tokens)) for part in tokens] == pytest.approx([1 / 2, 1 / 3, 1 / 6], rel=1e-3)


def test_a_blend_inside_a_blend_shares_its_weight(make_config):
    inner = SourceConfig(sources=(leaf(10, weight=3), leaf(10, weight=1)), weight=2.0)
    order = order_of(make_config, leaf(10, weight=6), inner)
    assert order.count(8000) == (6000, 1500, 500)
    assert drawn(order, 800) == {0: 600, 1: 150, 2: 50}


def test_a_list_of_its_own_unit_counts_epochs_inside_shares_of_samples(make_config):
    inner = SourceConfig(sources=(leaf(20, weight=2), leaf(10, weight=1)), weight=1.0, weight_unit="epochs")
    assert order_of(make_config, leaf(10, weight=1), inner).count(1000) == (500, 400, 100)


def test_lists_without_weights_are_one_list(make_config):
    nested = order_of(make_config, SourceConfig(sources=(leaf(5), leaf(6))), leaf(7))
    flat = order_of(make_config, leaf(5), leaf(6), leaf(7))
    assert [nested(n) for n in range(40)] == [flat(n) for n in range(40)]


def test_a_source_that_is_used_up_leaves_the_others_in_their_proportions(make_config):
    order = order_of(make_config, leaf(10, weight=2, max_epochs=3), leaf(10, weight=1), leaf(10, weight=1))
    assert order.num_samples is None
    assert drawn(order, 60) == {0: 30, 1: 15, 2: 15}
    assert drawn(order, 160, 60) == {1: 50, 2: 50}
    assert order.count(160) == (30, 65, 65)
    rows = Counter(order(n) for n in range(60))
    assert {count for (source, _), count in rows.items() if source == 0} == {3}


def test_a_stream_ends_with_its_last_source(make_config):
    order = order_of(make_config, leaf(10, max_samples=4), SourceConfig(sources=(leaf(9), leaf(9)), max_samples=7))
    assert order.num_samples == 11
    assert order.count(11)[0] == 4
    assert drawn(order, 11) == dict(enumerate(order.count(11)))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_sample_is_lost_or_doubled_where_a_source_ends(data):
    sizes = data.draw(st.lists(st.integers(1, 20), min_size=2, max_size=5))
    ends = [data.draw(st.none() | st.integers(1, 60)) for _ in sizes]
    weights = [data.draw(st.integers(1, 9)) for _ in sizes]
    parts = zip(sizes, weights, ends, strict=True)
    shares = [SourceShare(f"s{k}", size, weight, end) for k, (size, weight, end) in enumerate(parts)]
    middle = len(shares) // 2
    group = GroupShare(tuple(shares[middle:]), 3, data.draw(st.none() | st.integers(1, 60)))
    order = SampleOrder([*shares[:middle], group], 0, True)
    length = min(200, order.num_samples or 200)
    rows = Counter[tuple[int, int]]()
    for n in range(length):
        assert tuple(sum(c for (s, _), c in rows.items() if s == k) for k in range(len(sizes))) == order.count(n)
        rows[order(n)] += 1
    for k, size in enumerate(sizes):
        counts = [rows[k, row] for row in range(size)]
        assert max(counts) - min(counts) <= 1
        assert ends[k] is None or sum(counts) <= ends[k]


@pytest.mark.parametrize("unit", ["samples", "tokens", "epochs"])
def test_a_hundred_thousand_samples_have_the_shares_that_were_asked_for(make_config, unit):
    weights, rows, means = (0.579, 0.02, 0.01, 0.391), (1000, 50, 333, 10), (10, 300, 45, 100)
    lengths = {f"dates{f'-{k + 1}' if k else ''}": Length(mean, 1) for k, mean in enumerate(means)}
    sources = [leaf(size, weight=weight) for size, weight in zip(rows, weights, strict=True)]
    order = order_of(make_config, *sources, weight_unit=unit, lengths=lengths)
    factors = {"samples": (1,) * 4, "tokens": [1 / mean for mean in means], "epochs": rows}[unit]
    wanted = [weight * factor for weight, factor in zip(weights, factors, strict=True)]
    counts = drawn(order, 100_000)
    for k, share in enumerate(wanted):
        assert abs(counts[k] / 100_000 - share / sum(wanted)) < 0.005 * share / sum(wanted) + 1e-5


def test_the_forecast_says_how_often_each_source_comes(make_config):
    config = make_config(leaf(40, weight=3), leaf(200, weight=1, name="b"), max_epochs=None, max_steps=40)
    found = forecast(config, open_blend(config.data, "train"), None)
    assert list(found.lines()) == [
        "dates  75.0% of the samples: 240 samples, 6.00 epochs of 40 rows",
        "b      25.0% of the samples: 80 samples, 0.40 epochs of 200 rows",
    ]


def test_the_forecast_of_packed_rows_is_an_estimate_from_lengths(make_config):
    config = make_config(leaf(40), leaf(200), max_epochs=None, max_steps=40, packing="best_fit")
    blend = open_blend(config.data, "train")
    assert forecast(config, blend, None) is None
    # Of the second, which gives five samples in six, half are too long.
    found = forecast(config, blend, {"dates": Length(1200, 40), "dates-2": Length(3000, 200, left_out=100)})
    # 40 steps of 8 rows of 256 tokens, nearly full, hold samples of 17.5 tokens in the mean of what is drawn.
    assert sum(source.num_samples for source in found.sources) == pytest.approx(40 * 8 * 256 * 0.98 / 17.5, rel=1e-3)
    first, second = found.lines()
    assert "28.6% of the tokens: about" in first
    assert "left out" not in first
    assert second.endswith(", about 50% of them left out")
