import dataclasses
import gzip
import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet
import pytest

from vlmforge.data.gsm8k_parquet import INSTRUCTION

ROOT = Path(__file__).resolve().parents[2]


def load_script():
    spec = importlib.util.spec_from_file_location("fetch_assets", ROOT / "scripts" / "fetch_assets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fetch_assets"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


fetch_assets = load_script()
registries = sys.modules["registries"]


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index of one wheel; counts the downloads and can be told to fail."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("toy/rows.txt", "hello")
    fake = SimpleNamespace(wheel=content.getvalue(), downloads=0, stderr="", returncode=0)

    def run(command, **_):
        fake.downloads += 1
        if fake.returncode == 0:
            (Path(command[command.index("--dest") + 1]) / "toy-1.0-py3-none-any.whl").write_bytes(fake.wheel)
        return SimpleNamespace(returncode=fake.returncode, stderr=fake.stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return fake


def hash_of(tmp_path, content):
    path = tmp_path / "hashed"
    path.write_bytes(content)
    return registries.hash_file(path)


@pytest.fixture
def asset(tmp_path, index, monkeypatch):
    wheel = registries.Wheel(
        requirement="toy==1.0",
        sha256=hash_of(tmp_path, index.wheel),
        member="toy/rows.txt",
        member_sha256=hash_of(tmp_path, b"hello"),
        size_mb=0.1,
    )

    def build(content, folder):
        (folder / "rows.txt").write_text(content.read_text().upper())

    toy = fetch_assets.Asset(folder="toy", package=wheel, source_note="Toy rows.\nLicence: none\n", build=build)
    monkeypatch.setattr(fetch_assets, "ASSETS", {"toy": toy})
    monkeypatch.setattr(fetch_assets, "DEFAULT_ASSETS", ("toy",))
    return toy


def fetch(root):
    return fetch_assets.main(["--to", str(root)])


def test_a_folder_is_made_once_and_then_left_alone(tmp_path, asset, index, capsys):
    root = tmp_path / "assets"
    assert fetch(root) == 0
    assert sorted(path.name for path in (root / "toy").iterdir()) == ["SHA256SUMS", "SOURCE.txt", "rows.txt"]
    assert (root / "toy" / "rows.txt").read_text() == "HELLO"
    assert fetch(root) == 0
    assert index.downloads == 1
    assert "already there, nothing to do" in capsys.readouterr().out
    assert [path.name for path in root.iterdir()] == ["toy"]


@pytest.mark.parametrize("damage", ["changed", "deleted", "other note"])
def test_a_folder_that_is_not_as_it_was_made_is_made_again(tmp_path, asset, index, damage):
    root = tmp_path / "assets"
    fetch(root)
    rows = root / "toy" / "rows.txt"
    if damage == "changed":
        rows.write_text("HELLP")
    elif damage == "deleted":
        rows.unlink()
    else:
        (root / "toy" / "SOURCE.txt").write_text("an older version")
    assert fetch(root) == 0
    assert index.downloads == 2
    assert rows.read_text() == "HELLO"
    assert [path.name for path in root.iterdir()] == ["toy"]


def test_another_wheel_under_the_same_version_is_refused(tmp_path, asset, index, capsys):
    index.wheel += b"\0"
    assert fetch(tmp_path / "assets") == registries.EXIT_WRONG
    error = capsys.readouterr().err
    assert asset.package.sha256 in error
    assert "where: pip download toy==1.0" in error
    assert list((tmp_path / "assets").iterdir()) == []


@pytest.mark.parametrize(
    ("stderr", "exit_code"),
    [
        ("ERROR: Could not find a version that satisfies the requirement toy==1.0 (from versions: none)", 75),
        ("ERROR: Could not install packages due to an OSError: Max retries exceeded", 75),
        ("ERROR: Could not find a version that satisfies the requirement toy==1.0 (from versions: 0.9)", 1),
    ],
)
def test_the_exit_code_tells_whether_trying_again_may_help(tmp_path, asset, index, capsys, stderr, exit_code):
    index.returncode, index.stderr = 1, f"WARNING: retrying\n{stderr}\n"
    assert fetch(tmp_path / "assets") == exit_code
    assert stderr.removeprefix("ERROR: ") in capsys.readouterr().err
    assert list((tmp_path / "assets").iterdir()) == []


def test_a_build_that_fails_leaves_the_old_folder(tmp_path, asset, index, monkeypatch):
    root = tmp_path / "assets"
    fetch(root)
    (root / "toy" / "rows.txt").write_text("mine")

    def fail(content, folder):
        (folder / "half").write_text("")
        raise OSError("disk full")

    failing = dataclasses.replace(asset, build=fail)
    monkeypatch.setattr(fetch_assets, "ASSETS", {"toy": failing})
    with pytest.raises(OSError, match="disk full"):
        fetch(root)
    assert (root / "toy" / "rows.txt").read_text() == "mine"
    assert [path.name for path in root.iterdir()] == ["toy"]


def test_gsm8k_rows_get_verls_columns(tmp_path):
    rows = [{"question": f"Q{i}?", "answer": f"Steps.\n#### {i},000"} for i in range(1319)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "test.jsonl").write_text(text)
    fetch_assets.write_gsm8k_parquet(tmp_path)
    train = pyarrow.parquet.read_table(tmp_path / "train.parquet").to_pylist()
    test = pyarrow.parquet.read_table(tmp_path / "test.parquet").to_pylist()
    assert (len(train), len(test)) == (1000, 319)
    assert test[0] == {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": f"Q1000? {INSTRUCTION}"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "1000000"},
        "extra_info": {
            "split": "test",
            "index": 0,
            "answer": "Steps.\n#### 1000,000",
            "question": "Q1000?",
        },
    }


def test_parquet_files_that_are_there_are_left_alone(tmp_path, capsys):
    for name in ("train.parquet", "test.parquet"):
        (tmp_path / name).write_text("mine")
    fetch_assets.write_gsm8k_parquet(tmp_path)
    assert "nothing to do" in capsys.readouterr().out


APT_GET = """\
#!/bin/sh
echo "$@" >> {log}
case "$*" in
  *update) mkdir -p lists ;;
  *download*) test -d lists || {{ echo "E: Unable to locate package toy" >&2; exit 100; }}; touch toy_1.0_all.deb ;;
esac
"""
DPKG_DEB = """\
#!/bin/sh
mkdir -p "$3/usr/share" && cp {content} "$3/usr/share/rows.txt.dz"
"""


@pytest.fixture
def debian(tmp_path, monkeypatch):
    """An asset out of a Debian archive whose lists were never fetched; the folder of its tools, and their log."""
    content, log, tools = tmp_path / "content.gz", tmp_path / "log", tmp_path / "tools"
    content.write_bytes(gzip.compress(b"hello"))
    tools.mkdir()
    for name, script in (("apt-get", APT_GET), ("dpkg-deb", DPKG_DEB)):
        (tools / name).write_text(script.format(log=log, content=content))
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    package = registries.DebianPackage("toy", "usr/share/rows.txt.dz", 0.1)

    def build(content, folder):
        (folder / "rows.txt").write_text(content.read_text().upper())

    toy = fetch_assets.Asset(folder="toy", package=package, source_note="Toy rows.\n", build=build)
    monkeypatch.setattr(fetch_assets, "ASSETS", {"toy": toy})
    monkeypatch.setattr(fetch_assets, "DEFAULT_ASSETS", ("toy",))
    return SimpleNamespace(tools=tools, log=log)


def test_a_debian_package_comes_also_where_apt_has_no_lists_yet(tmp_path, debian, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fetch("assets") == 0
    assert (tmp_path / "assets/toy/rows.txt").read_text() == "HELLO"
    asked, updated, asked_again = debian.log.read_text().splitlines()
    assert asked == "-q download toy"
    assert updated.endswith("update")
    # A relative path would be one below /var/lib/apt.
    assert f"Dir::State::Lists={tmp_path}/assets/" in updated
    assert f"Dir::State::Lists={tmp_path}/assets/" in asked_again


def test_a_dictionary_of_other_senses_is_refused(tmp_path):
    dictionary = tmp_path / "wn.dict"
    dictionary.write_text("zoo\n    n 1: a garden\n")
    with pytest.raises(registries.FetchError, match="the number of senses: 1, must be 117659"):
        fetch_assets.build_wordnet(dictionary, tmp_path)


def test_a_machine_without_apt_is_told_where_to_make_the_folder(tmp_path, debian, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetch(tmp_path / "assets") == registries.EXIT_OUT_OF_REACH
    error = capsys.readouterr().err
    assert "no apt-get and no dpkg-deb here" in error
    assert "fix:   run this command on Debian or Ubuntu" in error


def test_an_archive_that_is_out_of_reach_is_told_in_its_own_words(tmp_path, debian, capsys):
    (debian.tools / "apt-get").write_text('#!/bin/sh\necho "E: Failed to fetch http://deb" >&2; exit 100\n')
    assert fetch(tmp_path / "assets") == registries.EXIT_OUT_OF_REACH
    assert "apt-get could not download toy: Failed to fetch http://deb" in capsys.readouterr().err
    assert list((tmp_path / "assets").iterdir()) == []


@pytest.fixture(scope="module")
def assets_dir():
    """The real assets of this checkout, fetched unless they are there."""
    exit_code = fetch_assets.main(["--gsm8k-parquet"])
    if exit_code == registries.EXIT_OUT_OF_REACH:
        pytest.skip("the package index is out of reach, and assets/ is not complete")
    assert exit_code == 0
    return ROOT / "assets"


@pytest.mark.real
def test_the_model_folder_is_complete_and_loads_as_any_other(assets_dir):
    folder = assets_dir / "smollm2-135m-instruct"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert names >= {"tokenizer_config.json", "chat_template.jinja", "SHA256SUMS", "SOURCE.txt"}
    config = json.loads((folder / "config.json").read_text())
    assert {name: config[name] for name in fetch_assets.SMOLLM2_FIELDS} == fetch_assets.SMOLLM2_FIELDS
    assert config["rope_parameters"] == {"rope_theta": 100_000.0, "rope_type": "default"}
    assert "Apache-2.0" in (folder / "SOURCE.txt").read_text()


@pytest.mark.real
def test_the_weights_are_bfloat16_and_the_head_is_tied(assets_dir):
    from safetensors import safe_open

    with safe_open(assets_dir / "smollm2-135m-instruct" / "model.safetensors", framework="pt") as file:
        dtypes = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (no mapping)
        num_weights = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
    assert dtypes == {"BF16"}
    assert num_weights == 134_515_008


@pytest.mark.real
def test_the_tokenizer_splits_digits_and_renders_a_chat(assets_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(assets_dir / "smollm2-135m-instruct")
    assert tokenizer.tokenize("12345 and 67") == [*"12345", "Ġand", "Ġ", "6", "7"]
    text = " Ünïcode, 3.14 and\n\nlines "
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.real
def test_gsm8k_has_its_rows(assets_dir):
    rows = fetch_assets.read_rows(assets_dir / "gsm8k" / "test.jsonl")
    assert len(rows) == 1319
    assert all(set(row) == {"question", "answer"} and "####" in row["answer"] for row in rows)
    train = pyarrow.parquet.read_table(assets_dir / "gsm8k" / "train.parquet")
    assert train.num_rows == 1000
    assert train["extra_info"][0].as_py()["question"] == rows[0]["question"]
    assert "MIT" in (assets_dir / "gsm8k" / "SOURCE.txt").read_text()


@pytest.mark.real
def test_wordnet_has_all_its_senses_and_holds_some_out():
    exit_code = fetch_assets.main(["--only", "wordnet"])
    if exit_code == registries.EXIT_OUT_OF_REACH:
        pytest.skip("there is no Debian archive in reach, and assets/wordnet is not there")
    assert exit_code == 0
    train, held_out = (
        [row["text"] for row in fetch_assets.read_rows(ROOT / "assets/wordnet" / f"{part}.jsonl")]
        for part in ("train", "validation")
    )
    assert (len(train), len(held_out)) == (115_659, 2000)
    assert "Copyright 2006 by Princeton University" in (ROOT / "assets/wordnet/LICENSE.txt").read_text()
    assert not {text.split("): ", 1)[1] for text in train} & {text.split("): ", 1)[1] for text in held_out}
    assert "zymology, zymurgy (noun): the branch of chemistry concerned with fermentation" in "\n".join(
        train + held_out
    )


def test_a_package_that_cannot_be_unpacked_is_told_in_the_words_of_dpkg(tmp_path, debian, capsys):
    (debian.tools / "dpkg-deb").write_text('#!/bin/sh\necho "dpkg-deb: error: unexpected end of file" >&2; exit 2\n')
    assert fetch(tmp_path / "assets") == registries.EXIT_WRONG
    error = capsys.readouterr().err
    assert "dpkg-deb could not unpack toy_1.0_all.deb: dpkg-deb: error: unexpected end of file" in error
    assert "Traceback" not in error
    assert not (tmp_path / "assets/toy").exists()
