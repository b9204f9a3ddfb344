import threading

import pytest

from vlmforge.data.ahead import map_ahead


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_results_come_in_order(num_threads):
    assert list(map_ahead(lambda k: k * k, range(20), num_threads)) == [k * k for k in range(20)]


def test_work_is_begun_before_its_turn():
    begun = [threading.Event() for _ in range(4)]
    results = map_ahead(lambda k: (begun[k].set(), k)[1], range(4), 2)
    assert next(results) == 0
    assert begun[1].wait(5)
    assert begun[2].wait(5)
    assert not begun[3].is_set()


def test_an_error_comes_when_its_turn_does():
    results = map_ahead(lambda k: 1 // k, [1, 0, 1], 2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_who_stops_asking_stops_the_work():
    drawn = []
    results = map_ahead(lambda k: k, (drawn.append(k) or k for k in range(100)), 2)
    next(results)
    results.close()
    assert len(drawn) == 3


@pytest.mark.parametrize("num_threads", [0, 2])
def test_an_item_that_cannot_be_drawn_stops_after_those_before_it(num_threads):
    results = map_ahead(lambda k: k, (1 // k for k in (1, 1, 1, 0)), num_threads)
    assert [next(results) for _ in range(3)] == [1, 1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
