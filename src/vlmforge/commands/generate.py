"""`vlmforge generate`: answers to prompts, from a checkpoint or from the model of a recipe."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vlmforge.commands.configuring import load_config, load_settings
from vlmforge.commands.request import Request
from vlmforge.config.schema import Config
from vlmforge.errors import EXIT_OK, ConfigError, DataError, Problem, VlmforgeError

# What `generate checkpoint=` takes from the command line.
USED_KEYS = (
    "stage.generation.",
    "parallelism.param_dtype",
    "launch.device",
    "run.output_dir",
    "model.trust_remote_code",
)
# And what it takes besides for a hub id.
HUB_KEYS = ("model.revision",)

if TYPE_CHECKING:
    from vlmforge.generate.find import Checkpoint
    from vlmforge.generate.load import LoadedModel
    from vlmforge.generate.prompts import PromptRow


def run(request: Request) -> int:
    """Generate for the prompts of a request: to the terminal, or from a file to a file.

    Raises:
        ConfigError: the arguments do not fit together.
        CheckpointError: the checkpoint is none.
        DataError: a prompt is none, or too long.
    """
    _check_arguments(request)
    asked, config, checkpoint = _find_inputs(request)
    loaded = _load(config, checkpoint)
    if request.one("input") is not None:
        model = request.one("checkpoint") or request.required("recipe", "quickstart")
        _answer_file(config, loaded, model, asked, Path(request.required("output", "out.jsonl")))
    else:
        _answer_prompts(config, loaded, asked)
    return EXIT_OK


def _find_inputs(request: Request) -> tuple[list[PromptRow], Config, Checkpoint | None]:
    """The prompts, the settings, and where the checkpoint is: None for a recipe's model.

    Raises:
        VlmforgeError: all that is wrong with them, before anything heavy is imported.
    """
    from vlmforge.generate.prompts import check_pictures

    errors: list[VlmforgeError] = []
    asked: list[PromptRow] = []
    config, checkpoint = None, None
    try:
        asked = _read_asked(request)
        if problems := check_pictures(asked):
            errors.append(DataError(problems))
    except DataError as error:
        # Of a single sample, too, which is of a kind; all of them together are of none.
        errors.append(DataError(error.problems))
    try:
        config, checkpoint = _find_model(request)
    except VlmforgeError as error:
        errors.append(error)
    if errors or config is None:
        raise type(errors[-1])([problem for error in errors for problem in error.problems])
    return asked, config, checkpoint


def _find_model(request: Request) -> tuple[Config, Checkpoint | None]:
    from vlmforge.generate.find import find_checkpoint

    if request.all("recipe"):
        return load_config(request, with_data=False).config, None
    config = load_settings(request)
    checkpoint = find_checkpoint(request.required("checkpoint", "runs/quickstart"), config.run.output_dir)
    _check_overrides(request, checkpoint.kind)
    # Sharded training state has no shape of its own: the run's recipe says what to build.
    return load_settings(request, str(checkpoint.recipe)) if checkpoint.kind == "step" else config, checkpoint


def _read_asked(request: Request) -> list[PromptRow]:
    from vlmforge.generate.prompts import ASKED, PromptRow, as_messages, read_prompts

    if (source := request.one("input")) is not None:
        return read_prompts(Path(source))
    pictures, films = request.all("image"), request.all("video")
    return [PromptRow({}, as_messages(prompt, pictures, ASKED, films), ASKED) for prompt in request.all("prompt")]


def _check_arguments(request: Request) -> None:
    given = {
        name for name in ("checkpoint", "recipe", "prompt", "image", "video", "input", "output") if request.all(name)
    }
    rules = (
        (
            len(given & {"checkpoint", "recipe"}) == 1,
            "generate needs one of checkpoint and recipe",
            "vlmforge generate checkpoint=runs/quickstart prompt=Hello",
        ),
        (
            len(given & {"prompt", "input"}) == 1,
            "generate needs one of prompt and input",
            "add prompt=Hello, or input=prompts.jsonl output=answers.jsonl",
        ),
        ("image" not in given or "prompt" in given, "image has no effect without prompt", "prompt='What is this?'"),
        ("video" not in given or "prompt" in given, "video has no effect without prompt", "prompt='What is this?'"),
        ("output" not in given or "input" in given, "output has no effect without input", "add input=prompts.jsonl"),
        ("input" not in given or "output" in given, "input needs an output", "add output=answers.jsonl"),
        (all(request.all("prompt")), "a prompt is empty", "prompt=Hello"),
    )
    words = " ".join(f"{name}={value}" for name in sorted(given) for value in request.all(name))
    problems = [
        Problem(what, f"command line: generate {words}".rstrip(), fix) for holds, what, fix in rules if not holds
    ]
    if problems:
        raise ConfigError(problems)


def _check_overrides(request: Request, kind: str) -> None:
    """A checkpoint brings its model with it: what else is set would have no effect."""
    more = {"step": ("model.",), "hub": HUB_KEYS}
    used = (*USED_KEYS, *more.get(kind, ()))
    problems = [
        Problem(
            f"{override} has no effect on a checkpoint, which brings its own",
            f"command line: {override}",
            "leave it out; generation takes stage.generation.*, parallelism.param_dtype and launch.device",
        )
        for override in request.overrides
        if not override.lstrip("+~").startswith(used)
    ]
    if problems:
        raise ConfigError(problems)


def _load(config: Config, checkpoint: Checkpoint | None) -> LoadedModel:
    from vlmforge.generate.load import load_checkpoint, load_recipe_model
    from vlmforge.parallel.mesh import pick_device

    device = pick_device(config.launch.device)
    if checkpoint is None and config.model.init == "random":
        print("the recipe's model has random weights; a trained one is checkpoint=runs/NAME", file=sys.stderr)
    return load_recipe_model(config, device) if checkpoint is None else load_checkpoint(checkpoint, config, device)


def _answer_prompts(config: Config, loaded: LoadedModel, asked: list[PromptRow]) -> None:
    from vlmforge.data.prompt import render_request
    from vlmforge.data.sample import content_text
    from vlmforge.generate.engine import build_streamer, generate_texts

    settings = config.stage.generation
    ids = [render_request(row.messages, loaded.tokenizer, loaded.image_rule, row.place) for row in asked]
    if len(asked) == 1 and sys.stdout.isatty():
        list(generate_texts(loaded, ids, settings, build_streamer(loaded)))
        return
    for row, text in zip(asked, generate_texts(loaded, ids, settings), strict=True):
        prompt = content_text(row.messages[0]["content"])
        print(text if len(asked) == 1 else f"{prompt}\n{text}\n", flush=True)


def _answer_file(config: Config, loaded: LoadedModel, model: str, rows: list[PromptRow], target: Path) -> None:
    from rich.console import Console
    from rich.progress import track

    from vlmforge.data.prompt import render_request
    from vlmforge.generate.engine import generate_texts
    from vlmforge.generate.prompts import answer_line, count_answered

    job = {
        "model": model,
        "param_dtype": config.parallelism.param_dtype,
        "generation": {k: v for k, v in asdict(config.stage.generation).items() if k != "batch_size"},
    }
    done = count_answered(target, rows, job)
    if done:
        rest = "; going on from there" if done < len(rows) else ": nothing left to do"
        print(f"{target} has {done} of {len(rows)} answers already{rest}", file=sys.stderr)
    if done == len(rows):
        return
    left = rows[done:]
    ids = [render_request(row.messages, loaded.tokenizer, loaded.image_rule, row.place) for row in left]
    with target.open("a", encoding="utf-8") as file:
        places = [row.place.where for row in left]
        texts = generate_texts(loaded, ids, config.stage.generation, names=places, num_before=done)
        answered = zip(left, texts, strict=True)
        for row, text in track(answered, "generating", total=len(left), console=Console(stderr=True)):
            file.write(answer_line(row, text))
            file.flush()
    print(f"{len(rows)} answers in {target}", file=sys.stderr)
