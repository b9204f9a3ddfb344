"""`vlmforge validate`: every check that can be made without weights, all errors at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from vlmforge.commands.configuring import LoadedRecipe, load_config
from vlmforge.commands.request import Request
from vlmforge.config.derived import Axes, BatchSizes
from vlmforge.config.pretrained import is_folder
from vlmforge.config.schema import Config
from vlmforge.config.sources import walk_sources
from vlmforge.errors import EXIT_OK, ConfigError, Problem


def run(request: Request) -> int:
    """Run gates 1 to 3 and print one line if nothing is wrong.

    Raises:
        ConfigError: the recipe is wrong, or the model does not match its tables.
        DataError: only the data is wrong.
    """
    loaded = load_config(request)
    problems = _check_on_meta(loaded.config)
    if problems:
        raise ConfigError(problems)
    has_data = request.flag("check_data", default=True)
    steps, lines = _look_ahead(loaded.config) if has_data else (loaded.config.stage.max_steps, [])
    print(describe(loaded, steps))
    notes = [*_tell_fetched(loaded.config), *_tell_streams(loaded.config), *lines]
    print("".join(f"    {note}\n" for note in notes), end="")
    return EXIT_OK


def _check_on_meta(config: Config) -> list[Problem]:
    """Gate 3: build the model without memory and match every table; imports torch, so it comes last."""
    from vlmforge.models.build import check_on_meta

    return check_on_meta(config)


def _tell_fetched(config: Config) -> Iterator[str]:
    """What is taken for a hub id because no folder has that name: a path may have been meant."""
    from huggingface_hub import try_to_load_from_cache

    name = config.model.pretrained
    if name is None or is_folder(name):
        return
    if try_to_load_from_cache(name, "config.json", revision=config.model.revision) is None:
        yield f"model.pretrained: {name} is no folder here; training fetches it from the hub"


def _tell_streams(config: Config) -> Iterator[str]:
    """What cannot be promised of sources that are read as they arrive."""
    for at, source in walk_sources(config.data.train, "data.train"):
        if source.streaming:
            yield (
                f"{at}: {source.path[0]} is read as it arrives, in its own order, unshuffled; it cannot seek, so a run "
                "goes on from the state that its checkpoint keeps"
            )


def _look_ahead(config: Config) -> tuple[int | None, list[str]]:
    """Steps of the run, where that is known before it starts, and what it draws from each source of a blend."""
    from vlmforge.data.forecast import count_unpacked_steps, forecast, open_countable
    from vlmforge.data.lengths import measure_lengths
    from vlmforge.models.images import build_image_rule
    from vlmforge.models.tokenizer import build_tokenizer, is_at_hand

    blend = open_countable(config)
    lengths = None
    if blend is not None and blend.is_mixed and is_at_hand(config.model):
        tokenizer = build_tokenizer(config.model)
        lengths = measure_lengths(config, blend.sources, tokenizer, build_image_rule(config.model, tokenizer))
    steps = count_unpacked_steps(config, blend, lengths)
    if blend is None or not blend.is_mixed:
        return steps, []
    found = forecast(config, blend, lengths)
    unknown = ["samples of each source: told when training starts, because the tokenizer is not on this machine"]
    return steps, unknown if found is None else list(found.lines())


def describe(loaded: LoadedRecipe, steps: int | None) -> str:
    """The `ok:` line: mesh, micro-batches, steps."""
    config, batch = loaded.config, loaded.batch
    if config.stage.kind == "generate":
        length, rows = config.stage.generation.max_new_tokens, _count(config.stage.generation.batch_size, "prompt")
        return f"ok: {loaded.recipe_name}: answers of up to {length} tokens, {rows} at once"
    mesh = f"{_describe(batch.axes)} = {_count(batch.world_size, 'rank')}"
    return f"ok: {loaded.recipe_name}: {mesh}, {_cut(config, batch)}, {_length(config, steps)}"


def _describe(axes: Axes) -> str:
    """The data axes, and others where they have more than one rank."""
    sizes = asdict(axes)
    always = ("dp_replicate", "dp_shard")
    product = " x ".join(
        f"{name} {size}" for name, size in sizes.items() if name in always or (size > 1 and name != "ep")
    )
    return product + (f" (ep {axes.ep})" if axes.ep > 1 else "")


def _cut(config: Config, batch: BatchSizes) -> str:
    """How a step's rows become micro-batches."""
    stage = config.stage
    if batch.grad_accum_steps is None:
        rows = _count(stage.global_batch_size, "row")
        return f"{rows} per step in micro-batches of at most {stage.max_tokens_per_micro_batch} tokens"
    num_micro_batches = _count(batch.grad_accum_steps, "micro-batch", "es")
    return f"{num_micro_batches} of {_count(stage.micro_batch_size, 'row')} per rank and step"


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"


def _length(config: Config, steps: int | None) -> str:
    if config.stage.max_epochs is None:
        return _count(steps, "step") if steps is not None else "no training"
    if steps is not None and steps != config.stage.max_steps:
        return _count(steps, "step")
    epochs = f"{config.stage.max_epochs:g} epoch{'' if config.stage.max_epochs == 1 else 's'}"
    limit = config.stage.max_steps
    return epochs if limit is None else f"{epochs}, at most {_count(limit, 'step')}"
