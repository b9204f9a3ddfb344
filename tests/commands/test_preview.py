import json
import re
from html.parser import HTMLParser

import pytest

from vlmforge.commands import preview
from vlmforge.commands.request import Request
from vlmforge.errors import ConfigError

RECIPE = """\
# A conversation or two
defaults:
  - /parallelism: single
  - /stage: sft
  - _self_
model:
  family: llama
  init: random
  tokenizer: builtin:bytes
  chat_template: builtin:chatml
  config: {vocab_size: 260, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
           num_key_value_heads: 2}
data:
  shuffle: false
  train:
    - {path: PATH, format: prompt_response}
stage:
  seq_len: 128
  packing: best_fit
  packing_window: 4
  global_batch_size: 1
  max_steps: 1
"""


@pytest.fixture
def recipe(tmp_path):
    """A recipe over four rows, the first of them too long."""
    rows = [{"prompt": "Why?" * (30 if k == 0 else 1), "response": f"Because\nof <{k}>."} for k in range(4)]
    data = tmp_path / "a.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("PATH", str(data)))
    return str(path)


def run(recipe, *overrides, **arguments):
    given = {name: [value] for name, value in arguments.items()} | {"recipe": [recipe]}
    assert preview.run(Request("preview", given, list(overrides))) == 0


def test_trained_tokens_borders_and_line_ends_can_be_seen(recipe, capsys):
    run(recipe, "data.on_too_long=drop")
    out = capsys.readouterr().out
    border, first, second = (out.index(mark) for mark in ("=== row 1 | ", "--- a#1 | ", "--- a#2 | "))
    assert border < first < second
    assert "<|im_start|>assistant\\n\n[[Because\\n\nof <1>.<|im_end|>]]\\n" in out
    assert "look: a: left out as too long in this step: 1" in out


def test_an_end_marker_that_was_cut_away_is_told(recipe, capsys):
    run(recipe, "data.on_too_long=truncate", "data.on_bad_sample=skip", "stage.seq_len=36", "stage.global_batch_size=3")
    out = capsys.readouterr().out
    assert "look: a#0: left out as no_label: " in out
    assert "cut at their end in this step: 3" in out
    assert "its end marker is not trained" in out


def test_samples_that_come_again_in_a_step_are_told_with_what_keeps_them_apart(recipe, capsys):
    words = ["data.train.0.rows=[1,4]", "stage.packing_window=1024"]
    run(recipe, *words, "stage.global_batch_size=3")
    note = "a: 3 of its samples come up to 3 times in this step: the step takes 9 samples, and the source has 3 rows; "
    assert f"look: {note}stage.global_batch_size=1 keeps them apart" in capsys.readouterr().out
    run(recipe, *words, "stage.global_batch_size=1")
    assert "keeps them apart" not in capsys.readouterr().out


def test_a_source_that_a_window_draws_again_and_again_is_told(recipe, capsys):
    few, many = (
        f"{{path: builtin:dates, format: prompt_response, name: {name}, weight: 1, rows: [0, {num_rows}]}}"
        for name, num_rows in (("few", 8), ("many", 40))
    )
    words = ["data.shuffle=true", "stage.seq_len=512", f"data.train=[{few},{many}]"]
    # A window that is longer than an epoch ends with it.
    run(recipe, *words, "stage.packing_window=100")
    told = "a packing window draws 24 samples of its 8 rows; stage.packing_window=16 keeps them apart, or draw less"
    assert told in capsys.readouterr().out
    run(recipe, *words, "stage.packing_window=16")
    assert "keeps them apart" not in capsys.readouterr().out


def test_a_clean_step_says_so(recipe, capsys):
    run(recipe, "stage.seq_len=256")
    out = capsys.readouterr().out
    assert "every sample has trained tokens, and its end is trained" in out
    assert "look:" not in out


class Page(HTMLParser):
    """What a browser would make of a page: its tags, and the attributes that could load or run something."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.handlers = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name == "style"]


def test_the_page_stands_alone_and_escapes_the_data(recipe, tmp_path, capsys):
    path = tmp_path / "preview.html"
    run(recipe, "data.on_too_long=drop", html=str(path))
    text = path.read_text()
    assert "Because\u21b5\nof &lt;1&gt;.&lt;|im_end|&gt;" in re.sub("<[^>]*>", "", text)
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")
    assert f"written to {path}" in capsys.readouterr().out


def test_a_sample_cannot_put_anything_into_the_page(tmp_path, capsys):
    attack = "</div></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&lt;\u2028"
    data = tmp_path / "a.jsonl"
    data.write_text(json.dumps({"prompt": attack, "response": attack}) + "\n")
    recipe = tmp_path / "recipe.yaml"
    text = RECIPE.replace("PATH", str(data)).replace("format:", f"name: {json.dumps(attack)}, format:")
    recipe.write_text(text.replace("seq_len: 128", "seq_len: 512"))
    run(str(recipe), html=str(tmp_path / "page.html"))
    page = Page((tmp_path / "page.html").read_text())
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert page.handlers == []
    assert all(link.startswith("#") for link in page.links)


def test_the_page_has_numbers_for_its_script_in_the_order_of_its_tokens(recipe, tmp_path):
    path = tmp_path / "preview.html"
    run(recipe, "data.on_too_long=drop", html=str(path))
    text = path.read_text()
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    samples = json.loads(data)["samples"]
    boxes = re.findall(r'data-k="\d+">(.*?)</div>', text, re.DOTALL)
    assert [sample["id"] for sample in samples] == ["a#1", "a#2", "a#3"]
    for sample, box in zip(samples, boxes, strict=True):
        chips = re.findall(r"<span([^>]*)>", box)
        assert len(chips) == len(sample["ids"])
        assert sample["positions"] == list(range(len(chips)))
        trained = [bool(re.search(r'class="[^"]*t"', chip)) for chip in chips]
        assert trained == [weight > 0 for weight in sample["weights"]]
    assert sum(weight for sample in samples for weight in sample["weights"]) == pytest.approx(1, rel=1e-4)


def test_a_terminal_gets_colours_and_no_brackets(recipe, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    run(recipe, "data.on_too_long=drop")
    out = capsys.readouterr().out
    assert "\x1b[" in out
    assert "[[" not in out


@pytest.mark.parametrize("html", ["no/such/folder/page.html", "."])
def test_a_page_that_cannot_be_written_is_told_before_anything_is_loaded(recipe, html):
    with pytest.raises(ConfigError, match="cannot be written"):
        run(recipe, html=html)
