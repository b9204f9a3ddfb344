"""Data sets of the `datasets` library, as lists and as streams."""

import datasets
import pytest

from vlmforge.config.schema import SourceConfig
from vlmforge.data.draw import draw_square
from vlmforge.data.sources import open_source, open_stream

pytestmark = pytest.mark.filterwarnings("default")

PICTURES = [draw_square(20 + k, 20, (k, 0, 0)) for k in range(7)]


@pytest.fixture
def folder(tmp_path):
    """A saved data set with pictures, which the library would decode if it were asked for a row."""
    rows = {"image": [{"bytes": picture, "path": None} for picture in PICTURES], "caption": list("abcdefg")}
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    return str(tmp_path / "saved")


def test_pictures_stay_the_bytes_that_they_are(folder):
    source = open_source(SourceConfig(path=(folder,), format="captioning"), "saved")
    assert len(source) == 7
    assert source.sample(3).media()[0].data == PICTURES[3]
    assert source.sample(3).messages[-1]["content"] == "d"


def test_a_stream_goes_on_from_any_of_its_states_and_starts_again_at_its_end(folder):
    config = SourceConfig(path=(folder,), format="captioning", streaming=True)
    stream = open_stream(config, "saved")
    assert not stream.can_seek
    arrivals = [arrival for arrival, _ in zip(stream.arrivals(None), range(17), strict=False)]
    assert [arrival.index for arrival in arrivals] == [*range(7), *range(7), *range(3)]
    assert stream.sample(arrivals[9]).messages[-1]["content"] == "c"
    assert stream.sample(arrivals[9]).media()[0].data == PICTURES[2]
    assert stream.place(arrivals[9]).sample_id == "saved#2"
    for k in (0, 5, 6, 7, 12):
        again = open_stream(config, "saved").arrivals(arrivals[k].state)
        assert [next(again).index for _ in range(4)] == [arrival.index for arrival in arrivals[k + 1 : k + 5]]
