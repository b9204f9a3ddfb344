"""Drawing a far sample costs what a near one costs."""

from vlmforge.data.sources.text_rows import TextRows
from vlmforge.data.window import build_train_windows


def test_sample_ten_million_reads_no_more_rows_than_sample_ten(make_config, chatml, write_jsonl, pairs, monkeypatch):
    rows = [{"prompt": "a", "response": str(k)} for k in range(7)]
    sources = [
        pairs(write_jsonl(f"{name}.jsonl", rows), weight=weight) for name, weight in (("a", 3), ("b", 2), ("c", 1))
    ]
    stage = {"max_epochs": None, "max_steps": 1, "global_batch_size": 10}
    windows = build_train_windows(make_config(*sources, **stage), chatml)
    read, one_row = [], TextRows.__getitem__
    monkeypatch.setattr(TextRows, "__getitem__", lambda self, i: read.append(i) or one_row(self, i))
    for number in (1, 1_000_000):
        read.clear()
        assert len(windows.make(number).rows) == len(read) == 10
