import json
import math

import pytest

from vlmforge.observe.metrics import METRIC_NAMES, JsonLines, MetricsWriter, read_metrics


def metrics(step, **changes):
    return dict.fromkeys(METRIC_NAMES, 0.1) | {"step": step} | changes


def test_every_step_is_one_line_that_is_on_disk_at_once(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    writer = MetricsWriter(path)
    for step in (1, 2):
        writer.write(metrics(step))
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == list(range(1, step + 1))
    writer.close()


def test_numbers_keep_their_full_precision(tmp_path):
    loss = 2.4680000000000004 / 3
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        writer.write(metrics(1, loss=loss))
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["loss"] == loss


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_lacks_becomes_null(tmp_path, value):
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        writer.write(metrics(1, loss=value, parts={"a": [value, 1.5]}))
    text = (tmp_path / "metrics.jsonl").read_text()
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert record["loss"] is None
    assert record["parts"] == {"a": [None, 1.5]}


def test_a_second_line_of_one_step_is_refused(tmp_path):
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        writer.write(metrics(3))
        with pytest.raises(AssertionError, match="step 3 after step 3"):
            writer.write(metrics(3))


def test_metrics_that_lack_a_name_are_refused(tmp_path):
    record = metrics(1)
    del record["mfu_ratio"]
    with pytest.raises(AssertionError, match="mfu_ratio"):
        MetricsWriter(tmp_path / "metrics.jsonl").write(record)


def test_a_disabled_writer_leaves_no_file(tmp_path):
    with MetricsWriter(tmp_path / "metrics.jsonl", enabled=False) as writer:
        writer.write(metrics(1))
        assert writer.cut_after(0) == 0
    assert list(tmp_path.iterdir()) == []


def write_steps(path, *steps):
    with JsonLines(path) as lines:
        for step in steps:
            lines.write({"step": step, "ids": [f"train#{step}"]})


@pytest.mark.parametrize(("last", "kept"), [(0, []), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3])])
def test_cutting_removes_the_lines_after_a_step(tmp_path, last, kept):
    path = tmp_path / "batches.jsonl"
    write_steps(path, 1, 2, 3)
    lines = JsonLines(path)
    assert lines.cut_after(last) == 3 - len(kept)
    assert [record["step"] for record in read_metrics(path)] == kept
    assert [child.name for child in tmp_path.iterdir()] == ["batches.jsonl"]


def test_cutting_in_the_middle_of_writing_goes_on_after_the_cut(tmp_path):
    path = tmp_path / "batches.jsonl"
    with JsonLines(path) as lines:
        for step in (1, 2, 3):
            lines.write({"step": step})
        lines.cut_after(1)
        lines.write({"step": 2, "again": True})
    assert read_metrics(path) == [{"step": 1}, {"step": 2, "again": True}]


def test_cutting_a_file_that_does_not_exist_does_nothing(tmp_path):
    assert JsonLines(tmp_path / "metrics.jsonl").cut_after(3) == 0
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', '{"step": 3}', "\ud83d".encode("utf-8", "surrogatepass")[:2]])
def test_a_line_torn_by_a_kill_is_dropped(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 1, 2)
    with path.open("ab") as file:
        file.write(torn if isinstance(torn, bytes) else torn.encode())
    if not isinstance(torn, bytes):
        assert [record["step"] for record in read_metrics(path)] == [1, 2]
    write_steps(path, 3)
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3]


def test_a_torn_line_is_cut_with_the_rest(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 1, 2)
    path.write_text(path.read_text() + '{"step": 3, "lo')
    JsonLines(path).cut_after(1)
    assert [record["step"] for record in read_metrics(path)] == [1]
