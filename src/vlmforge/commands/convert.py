"""`vlmforge convert`: stitched models of a tower and a language model, and to and from the files of published ones."""

from __future__ import annotations

import sys
from pathlib import Path

from vlmforge.commands.configuring import load_settings
from vlmforge.commands.request import Request
from vlmforge.config.rules import fields, model, stitched
from vlmforge.config.schema import Config
from vlmforge.errors import EXIT_OK, CheckpointError, ConfigError, Problem, VlmforgeError
from vlmforge.models.stitched import RANDOM

PARTS = ("tower", "language_model")
MODEL_RULES = (model.check_family, model.check_image, fields.check_fields, fields.check_heads, *stitched.RULES)
SHOWN_NAMES = 8


def run(request: Request) -> int:
    """Write the folder that is asked for.

    Raises:
        ConfigError: the arguments do not fit together, or the model is no stitched one.
        CheckpointError: a folder does not hold what it should.
    """
    _check_arguments(request)
    output = Path(request.required("output", "stitched/mistral_clip"))
    layout = request.one("layout")
    config, folders = _find_inputs(request)
    from vlmforge.models.convert import join_parts, read_published, write_published

    if layout is not None:
        done = write_published(folders["checkpoint"], layout, output)
    elif "checkpoint" in folders:
        done = read_published(config.model, str(folders["checkpoint"]), output, config.run.seed)
    else:
        tower, text = (str(folders.get(name, RANDOM)) for name in PARTS)
        done = join_parts(config.model, tower, text, output, config.run.seed)
    for note in done.notes:
        print(note, file=sys.stderr)
    if done.unused:
        some = ", ".join(done.unused[:3])
        print(f"{len(done.unused)} tensors of the folders have no place in the model: {some}", file=sys.stderr)
    if done.drawn:
        some = ", ".join(done.drawn[:SHOWN_NAMES]) + (", ..." if len(done.drawn) > SHOWN_NAMES else "")
        print(f"{len(done.drawn)} tensors are new, drawn from run.seed={config.run.seed}: {some}")
    print(f"{output}, {done.num_parameters / 1e6:.1f}M parameters")
    return EXIT_OK


def _find_inputs(request: Request) -> tuple[Config, dict[str, Path]]:
    """The settings, and the folders of the models that are named; of a tower to be drawn there is none.

    Raises:
        VlmforgeError: all that is wrong with them, before anything heavy is imported.
    """
    from vlmforge.models.hub import fetch_folder

    layout, errors = request.one("layout"), list[VlmforgeError]()
    config, folders = None, dict[str, Path]()
    try:
        # A folder to be written in another layout brings its model with it.
        config = load_settings(request, request.one("recipe"), rules=() if layout is not None else MODEL_RULES)
    except ConfigError as error:
        errors.append(error)
    for key in (*PARTS, "checkpoint"):
        name = request.one(key)
        if name is None or (key == "tower" and name == RANDOM):
            continue
        try:
            if layout is None:
                folders[key] = fetch_folder(name, key=key)
            elif config is not None:
                folders[key] = _find_folder(name, config.run.output_dir)
        except CheckpointError as error:
            errors.append(error)
    if errors or config is None:
        raise type(errors[0])([problem for error in errors for problem in error.problems])
    return config, folders


def _find_folder(name: str, output_dir: str) -> Path:
    """The folder with the whole weights of a checkpoint: a run's export, or merged, a model folder, a hub id's.

    Raises:
        CheckpointError: there is none.
    """
    from vlmforge.generate.find import find_checkpoint
    from vlmforge.models.hub import fetch_folder

    found = find_checkpoint(name, output_dir)
    if found.kind == "peft":
        merged = Path(found.path).with_name("merged")
        if found.recipe is not None and merged.is_dir():
            return merged
        what = f"checkpoint = {name} is an adapter, and a published model is whole"
        fix = "train with checkpointing.export_merged=true and give the run, or merge it by peft's merge_and_unload"
        raise CheckpointError(Problem(what, found.path, fix))
    if found.kind == "step":
        what = f"checkpoint = {name} has no export/ yet; its steps hold the state of training"
        fix = "let the run end, or export on the way with checkpointing.export=100, then give its export/"
        raise CheckpointError(Problem(what, found.path, fix))
    return fetch_folder(found.path, key="checkpoint")


def _check_arguments(request: Request) -> None:
    given = {name for name in (*PARTS, "checkpoint", "layout") if request.all(name)}
    has_model = bool(request.one("recipe")) or any(word.lstrip("+").startswith("model") for word in request.overrides)
    rules = (
        (
            given in ({*PARTS}, {"checkpoint"}, {"checkpoint", "layout"}),
            "convert needs tower and language_model, or checkpoint, or checkpoint and layout",
            "vlmforge convert model=mistral_clip tower=FOLDER language_model=FOLDER output=stitched/mistral_clip",
        ),
        (
            "layout" in given or has_model,
            "convert needs a model, whose shape the weights are to have",
            "model=mistral_clip, or another model file of family stitched, or recipe=my.yaml",
        ),
        (
            "layout" not in given or not (request.overrides or request.one("recipe")),
            "what is set has no effect on a folder that is written in another layout",
            "remove the overrides",
        ),
    )
    output = request.one("output")
    taken = output is not None and Path(output).exists() and any(Path(output).iterdir())
    words = " ".join(request.words()[1:])
    problems = [Problem(what, f"command line: convert {words}", fix) for holds, what, fix in rules if not holds]
    if taken:
        problems.append(Problem(f"output = {output} is not empty", f"command line: output={output}", "another output"))
    if problems:
        raise ConfigError(problems)
