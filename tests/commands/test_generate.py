"""`vlmforge generate` on every kind of checkpoint, for prompts and for files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import LORA, environment, write_recipe
from tests.support.tiny import make_adapter, make_base
from vlmforge.cli import main

SHORT = "stage.generation.max_new_tokens=6"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full run, a LoRA run, and folders that plain transformers and peft made."""
    folder = tmp_path_factory.mktemp("generate")
    write_recipe(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("WORLD_SIZE", raising=False)
        words = ["recipe=short.yaml", "stage.max_steps=3", "stage.optimizer.lr=1e-2"]
        assert main(["train", *words, "run.name=full"]) == 0
        assert main(["train", *words, "run.name=lora", *LORA]) == 0
    shutil.copytree(folder / "runs/full/checkpoints/step-00000003", folder / "moved/step-00000003")
    make_adapter(folder / "adapter", make_base(folder / "base", "llama"))
    return folder


@pytest.fixture(autouse=True)
def inside(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def generate(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["generate", *words, SHORT]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("run", ["full", "lora"])
def test_run_step_and_export_give_the_same_answer(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    places = (f"runs/{run}", f"runs/{run}/export", f"runs/{run}/checkpoints/step-00000003")
    fp32 = "parallelism.param_dtype=float32"
    answers = {generate(capsys, f"checkpoint={place}", 'prompt=What\'s 1=1, "yes"?', fp32) for place in places}
    assert len(answers) == 1
    assert answers.pop().strip()


def test_the_answer_is_that_of_plain_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("base")
    model = AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32)
    turns = [{"role": "user", "content": "Hi"}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    plain = model.generate(**ids, max_new_tokens=6, do_sample=False, eos_token_id=258, pad_token_id=256)
    expected = tokenizer.decode(plain[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    ours = generate(capsys, "checkpoint=base", "prompt=Hi", "parallelism.param_dtype=float32")
    assert ours == expected + "\n"


def test_an_adapter_folder_changes_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    answers = [generate(capsys, f"checkpoint={name}", "prompt=Hi") for name in ("base", "adapter")]
    assert answers[0] != answers[1]


def test_batches_give_what_single_prompts_give(capsys: pytest.CaptureFixture[str]) -> None:
    prompts = ["a", "a much longer prompt than the others", "three words here"]
    fp32 = "parallelism.param_dtype=float32"
    together = generate(capsys, "checkpoint=runs/full", fp32, *(f"prompt={prompt}" for prompt in prompts))
    alone = [generate(capsys, "checkpoint=runs/full", fp32, f"prompt={prompt}") for prompt in prompts]
    assert together == "".join(f"{p}\n{answer}\n" for p, answer in zip(prompts, alone, strict=True))


def test_a_file_is_answered_and_a_cut_off_job_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"prompt": "one", "id": 1},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "two"}]},
        {"prompt": "three\u2028lines\u0085here"},
    ]
    Path("in.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    words = ("checkpoint=runs/full", "input=in.jsonl", "output=out/answers.jsonl")
    generate(capsys, *words)
    whole = Path("out/answers.jsonl").read_text()
    answered = [json.loads(line) for line in whole.split("\n")[:-1]]
    assert [{k: v for k, v in row.items() if k != "response"} for row in answered] == rows
    Path("out/answers.jsonl").write_text(whole[: whole.index("\n") + 8])
    assert main(["generate", *words, SHORT]) == 0
    assert "has 1 of 3 answers already" in capsys.readouterr().err
    assert Path("out/answers.jsonl").read_text() == whole


def test_answers_to_other_prompts_are_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.jsonl").write_text('{"prompt": "mine"}\n')
    Path("other.jsonl").write_text('{"prompt": "other", "response": "x"}\n')
    words = ["generate", "input=mine.jsonl", "output=other.jsonl", SHORT]
    assert main([*words, "checkpoint=runs/full"]) == 3
    assert "was made by another job" in capsys.readouterr().err
    assert "other" in Path("other.jsonl").read_text()


def test_answers_of_another_model_or_other_settings_are_not_kept_for_these(capsys: pytest.CaptureFixture[str]) -> None:
    Path("ask.jsonl").write_text('{"prompt": "ask"}\n')
    words = ["generate", "input=ask.jsonl", "output=told.jsonl"]
    assert main([*words, "checkpoint=runs/full", SHORT]) == 0
    before = Path("told.jsonl").read_text()
    assert main([*words, "checkpoint=runs/lora", SHORT]) == 3
    assert "model was runs/full and is runs/lora" in capsys.readouterr().err
    assert main([*words, "checkpoint=runs/full", "stage.generation.max_new_tokens=7"]) == 3
    Path("ask.jsonl").write_text('{"prompt": "else"}\n')
    assert main([*words, "checkpoint=runs/full", SHORT]) == 3
    assert "told.jsonl:1" in capsys.readouterr().err
    assert Path("told.jsonl").read_text() == before


def test_every_bad_line_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ['{"prompt": "fine"}', "not json", '{"question": "?"}', '{"messages": [{"role": "assistant"}]}']
    Path("bad.jsonl").write_text("\n".join(lines))
    assert main(["generate", "checkpoint=runs/full", "input=bad.jsonl", "output=none.jsonl"]) == 3
    report = capsys.readouterr().err
    assert all(f"bad.jsonl:{number}" in report for number in (2, 3, 4))
    assert "3 errors" in report


BAD = [
    (["checkpoint=runs/ful", "prompt=x"], 4, "checkpoint=runs/full"),
    (["checkpoint=runs", "prompt=x"], 4, "holds no recipe.yaml"),
    (["prompt=x"], 2, "one of checkpoint and recipe"),
    (["checkpoint=runs/full"], 2, "one of prompt and input"),
    (["checkpoint=runs/full", "prompt=x", "output=o.jsonl"], 2, "output has no effect without input"),
    (["checkpoint=runs/full", "input=in.jsonl"], 2, "input needs an output"),
    (["checkpoint=runs/full", "prompt=x", "stage.generation.temprature=1"], 2, "temperature"),
    (["checkpoint=runs/full", "prompt=" + "x" * 3000], 3, "max_position_embeddings"),
    (["checkpoint=runs/full", "prompt="], 2, "a prompt is empty"),
    (["checkpoint=runs/full", "prompt=x", "stage.seq_len=64"], 2, "stage.seq_len=64 has no effect"),
    (["checkpoint=moved/step-00000003", "prompt=x"], 4, "give a step folder inside its run folder"),
]


@pytest.mark.parametrize(("words", "code", "part"), BAD, ids=lambda value: str(value)[:40])
def test_mistakes_are_told(words: list[str], code: int, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", *words]) == code
    assert part in capsys.readouterr().err


def test_a_recipe_generates_with_the_model_it_starts_from(capsys: pytest.CaptureFixture[str]) -> None:
    out = generate(capsys, "recipe=quickstart", "scale=tiny", "prompt=Hello")
    assert out.endswith("\n")


def test_sampling_depends_on_its_seed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("checkpoint=runs/full", "prompt=Hi", "stage.generation.temperature=1.5")
    first, again, other = (generate(capsys, *words, f"stage.generation.seed={seed}") for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_terminal_sees_the_answer_as_it_comes(here: Path) -> None:
    program = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    command = [sys.executable, "-m", "vlmforge", "generate", "checkpoint=runs/full", "prompt=two", SHORT]
    done = subprocess.run(
        [sys.executable, "-c", program, *command],
        cwd=here,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.strip()
