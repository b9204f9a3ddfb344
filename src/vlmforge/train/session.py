"""What a training process holds, and the files it keeps: model, optimizer, data, run folder, records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlmforge.checkpoint.store import SafetensorsReader, drop_after
from vlmforge.config.derived import BatchSizes
from vlmforge.config.encode import encode_absolute, to_yaml
from vlmforge.config.schema import Config
from vlmforge.config.sources import BlendName
from vlmforge.data.fingerprint import fingerprint_sources
from vlmforge.data.images import ImageRule
from vlmforge.data.ledger import Ledger
from vlmforge.data.loader import StepBatch, TrainLoader, build_train_loader
from vlmforge.data.mixture import Lengths
from vlmforge.errors import CheckpointError, Problem
from vlmforge.generate.load import stop_ids
from vlmforge.models.adapters import weights_cast_by_layers
from vlmforge.models.build import (
    TORCH_DTYPES,
    build_on_meta,
    count_flops_per_token,
    count_parameters,
    find_frozen_towers,
    find_layers,
    find_seeing,
    find_text_layers,
    keep_frozen_as_stored,
    materialise,
)
from vlmforge.models.embed_cache import attach_embed_cache
from vlmforge.models.export import export_model
from vlmforge.models.halves import apply_halves, is_steady
from vlmforge.models.head import LossModel
from vlmforge.models.lean import apply_lean
from vlmforge.models.liger import apply_liger
from vlmforge.models.shape import find_family
from vlmforge.models.sharding import apply_sharding
from vlmforge.models.tokenizer import hash_template
from vlmforge.observe.files import write_json, write_text
from vlmforge.observe.manifest import build_manifest
from vlmforge.observe.metrics import BadSampleLines, JsonLines, MetricsWriter
from vlmforge.observe.progress import Progress
from vlmforge.observe.speed import measure_matmul_flops
from vlmforge.observe.trackers import Tracker, build_trackers
from vlmforge.parallel.compiled import apply_compile
from vlmforge.parallel.experts import ExpertRanks, build_expert_ranks
from vlmforge.parallel.mesh import World, barrier, gather_objects
from vlmforge.parallel.recompute import apply_recompute
from vlmforge.parallel.shard import Apart, apply_fsdp
from vlmforge.parallel.tensor import TensorRanks, build_tensor_ranks
from vlmforge.train.interrupt import StopWish
from vlmforge.train.optimizer import build_optimizer
from vlmforge.train.run_folder import RunFolder, find_changed_data
from vlmforge.train.state import TrainState

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# Of what is trained and of what is held out, in a checkpoint.
_LEDGERS = ("ledger", "validation_ledger")


@dataclass
class Session:
    """Everything one process holds while it trains.

    Attributes:
        config: the recipe.
        world: this rank's place.
        run: the run folder.
        tokenizer: of the model.
        image_rule: how it sees pictures; None: it takes text only.
        total_steps: steps of the whole run, which the schedule counts on.
        loader: this rank's part of every step.
        state: model, optimizer, position: what a checkpoint holds.
        ledger: what became of the samples so far.
        flops_per_token: floating-point operations of a forward and backward pass.
        peak_flops: what this rank's device can do in a second, measured.
        scores: what was measured before and after.
        wish: whether somebody asked the run to stop.
        validation_loss: after the last step of this process; None: not measured.
        validation_ledger: what became of the held-out samples when that was last measured.
    """

    config: Config
    world: World
    run: RunFolder
    tokenizer: PreTrainedTokenizerBase
    image_rule: ImageRule | None
    total_steps: int
    loader: TrainLoader
    state: TrainState
    ledger: Ledger
    flops_per_token: int
    peak_flops: float
    scores: dict[str, Any]
    wish: StopWish
    validation_loss: float | None = None
    validation_ledger: Ledger | None = None


@dataclass(frozen=True)
class Records:
    """The files that a run writes while it goes; on ranks other than 0 they do nothing."""

    metrics: MetricsWriter
    batches: JsonLines
    bad_samples: BadSampleLines
    trackers: list[Tracker]
    progress: Progress

    def write_step(self, line: dict[str, Any], batch: StepBatch) -> None:
        """Record and show one finished step."""
        self.metrics.write(line)
        self.batches.write({"step": line["step"], "sample_ids": list(batch.sample_ids)})
        self.write_left_out(line["step"], "train", batch.ledger)
        for tracker in self.trackers:
            tracker.log(line, line["step"])
        self.progress.update(line)

    def write_left_out(self, step: int, blend: BlendName, ledger: Ledger) -> None:
        """Record the samples that were left out, if any."""
        if ledger.left_out:
            left_out = [sample.as_dict() for sample in ledger.left_out]
            self.bad_samples.write({"step": step, "blend": blend, "samples": left_out})


def open_session(
    config: Config,
    sizes: BatchSizes,
    world: World,
    run: RunFolder,
    tokenizer: PreTrainedTokenizerBase,
    image_rule: ImageRule | None,
    total_steps: int,
    progress: Progress,
    lengths: Lengths | None,
    wish: StopWish,
) -> Session:
    """Build the model, load weights and, for a run that goes on, its state; make the run folder."""
    fingerprints = fingerprint_sources(config) if world.is_main else {}
    _check_same_data(run, fingerprints, world)
    with progress.status("loading the model"):
        root = build_root(config, world)
        attach_embed_cache(root.model, config, world, progress.message)
    optimizer = build_optimizer(root.model, config.stage.optimizer, find_family(root.model.config).group_of)
    state = TrainState(root, optimizer, step=0, data={}, num_tokens_seen=0)
    if run.resume_from is not None:
        with progress.status(f"resuming from {run.resume_from}"):
            state.restore(run.resume_from)
        _check_not_beyond(run, state.step, total_steps)
    loader = build_train_loader(
        config,
        tokenizer,
        world.data_rank,
        world.num_data_ranks,
        sizes.grad_accum_steps,
        state.data.get("position"),
        lengths,
        image_rule,
    )
    total, trained = count_parameters(root)
    with progress.status("measuring the machine"):
        peak_flops = measure_matmul_flops(world.device, TORCH_DTYPES[config.parallelism.param_dtype])
    before = {name: Ledger.from_dict(state.data[name]) for name in _LEDGERS if name in state.data}
    progress.message(
        f"{total:,} parameters, {trained:,} trained; "
        f"{total_steps} steps of {config.stage.global_batch_size} rows on {world.world_size} "
        f"{'rank' if world.world_size == 1 else 'ranks'} ({world.device.type}); "
        f"weights: {run.resume_from or starting_folder(config) or f'random, from run.seed={config.run.seed}'}; "
        f"run folder {run.path}"
    )
    flops_per_token = count_flops_per_token(root.model)
    session = Session(
        config=config,
        world=world,
        run=run,
        tokenizer=tokenizer,
        image_rule=image_rule,
        total_steps=total_steps,
        loader=loader,
        state=state,
        ledger=before.get("ledger", Ledger()),
        flops_per_token=flops_per_token,
        peak_flops=peak_flops,
        scores={},
        wish=wish,
        validation_ledger=before.get("validation_ledger"),
    )
    _write_run_folder(session, lengths, fingerprints)
    return session


def _check_same_data(run: RunFolder, fingerprints: Mapping[str, Any], world: World) -> None:
    """Nobody trains in another order without knowing; a collective, as only the main rank has looked at the files."""
    if run.resume_from is None:
        return
    problems = find_changed_data(run, fingerprints) if world.is_main else []
    everywhere = [problem for rank in gather_objects(problems) for problem in rank]
    if everywhere:
        raise CheckpointError(everywhere)


def _check_not_beyond(run: RunFolder, step: int, total_steps: int) -> None:
    if step > total_steps:
        problem = Problem(
            f"{run.resume_from} has made {step} steps, more than the {total_steps} of this recipe",
            str(run.path),
            f"stage.max_steps={step} or more, or run.name={run.path.name}-2 for a new run",
        )
        raise CheckpointError(problem)


def build_root(config: Config, world: World) -> LossModel:
    """The sharded model with its first weights, in training mode; the order of the passes is fixed."""
    model = build_on_meta(config)
    keep_frozen_as_stored(model, config, SafetensorsReader())
    _apply_kernels(model, config)
    apply_recompute(model, config.parallelism.recompute)
    ranks, experts = _build_ranks(world)
    apart: list[Apart] = []
    if world.axes.tp > 1:
        apart.append(Apart(find_seeing(model), world.tower_mesh, num_copies=world.axes.tp))
    if world.axes.tp > 1 or world.axes.ep > 1:
        moved = apply_sharding(model, ranks, experts)
        if experts is not None and experts.weight_mesh is not None:
            apart.append(Apart(moved, experts.weight_mesh))
    frozen = find_frozen_towers(model) if config.stage.frozen_in_eval else []
    in_halves = _may_halve(model, config, world)
    root = LossModel(
        model,
        world.sequence_split(),
        ranks=ranks if ranks.size > 1 else None,
        kept_in_eval=frozen,
        arranges_halves=in_halves,
    )
    precision = config.parallelism
    apply_fsdp(
        root,
        find_layers(model),
        world.weight_mesh,
        apart=apart,
        param_dtype=TORCH_DTYPES[precision.param_dtype],
        reduce_dtype=TORCH_DTYPES[precision.reduce_dtype],
        is_offloaded=precision.cpu_offload,
        cast_by_layers=weights_cast_by_layers(model),
    )
    if precision.compile:
        apply_compile(find_text_layers(model))
    if in_halves:
        apply_halves(find_layers(model))
    materialise(model, config, world.device, SafetensorsReader())
    return root.train()


def _apply_kernels(model: PreTrainedModel, config: Config) -> None:
    """The layers' own kernels, in place; a compiler makes those of plain layers itself, and keeps less for them."""
    if config.model.kernels == "liger":
        apply_liger(model)
    elif not config.parallelism.compile:
        apply_lean(model)


def _may_halve(model: PreTrainedModel, config: Config, world: World) -> bool:
    """Whether two threads of this rank may go through a layer at once: no other rank waits for what is in it."""
    axes, layout = world.axes, config.parallelism
    is_whole = axes.tp == axes.cp == axes.ep == 1 and config.model.attention == "varlen"
    # torch's checkpoint keeps its hooks by thread, and a compiler does not look into one.
    is_plain = layout.recompute == "none" and not layout.compile and is_steady(find_layers(model))
    return is_whole and is_plain and world.device.type == "cpu" and torch.get_num_threads() % 2 == 0


def _build_ranks(world: World) -> tuple[TensorRanks, ExpertRanks | None]:
    """Who shares matrices, and who shares a layer's experts; a collective."""
    axes = world.axes
    is_cut = axes.tp > 1 or axes.ep > 1
    return build_tensor_ranks(world.weight_mesh["tp"]), build_expert_ranks(world) if is_cut else None


def _write_run_folder(session: Session, lengths: Lengths | None, fingerprints: Mapping[str, Any]) -> None:
    """recipe.yaml, manifest.json and, for a LoRA on random weights, the base that the adapter belongs to."""
    config, run = session.config, session.run
    resolved = encode_absolute(config)
    if session.world.is_main:
        nameless = encode_absolute(replace(config, run=replace(config.run, name=None, stop_after_steps=None)))
        write_text(run.path / "recipe.yaml", to_yaml(nameless))
        manifest = build_manifest(
            mesh=asdict(session.world.axes),
            data_fingerprints=fingerprints,
            chat_template_hash=hash_template(session.tokenizer),
            parent_checkpoint=str(run.resume_from) if run.resume_from else starting_folder(config),
        )
        write_json(run.manifest, manifest | {"recipe": resolved, "lengths": lengths, "completed_steps": None})
        if run.resume_from is not None and run.resume_from.parent.resolve() == run.checkpoints.resolve():
            drop_after(run.checkpoints, session.state.step)
    barrier()
    if config.stage.adapter is not None and base_folder(session) == str(run.path.absolute() / "base_model"):
        model = session.state.root.model
        stops = stop_ids(model, session.tokenizer)
        folder, rule = run.path / "base_model", session.image_rule
        export_model(model, session.tokenizer, folder, stops, session.world.is_main, image_rule=rule)


def base_folder(session: Session) -> str:
    """The model that an adapter belongs to: a hub id or an absolute folder."""
    model = session.config.model
    if model.init == "random" or model.pretrained is None:
        return str(session.run.path.absolute() / "base_model")
    path = Path(model.pretrained)
    return str(path.absolute()) if path.is_dir() else model.pretrained


def starting_folder(config: Config) -> str | None:
    """Where the model lies before training, for scores before; None for random weights."""
    if config.model.init == "random" or config.model.pretrained is None:
        return None
    adapter = config.stage.adapter
    return adapter.path if adapter is not None and adapter.path is not None else str(Path(config.model.pretrained))


@contextmanager
def open_records(session: Session, progress: Progress) -> Iterator[Records]:
    """Open the files of a run, without the lines of steps that will be done again, and close them at the end."""
    run, config, is_main = session.run, session.config, session.world.is_main
    step = session.state.step
    metrics = MetricsWriter(run.path / "metrics.jsonl", enabled=is_main)
    batches = JsonLines(run.path / "batches.jsonl", enabled=is_main and config.logging.sample_ids)
    bad_samples = BadSampleLines(run.path / "bad_samples.jsonl", enabled=is_main)
    for lines in (metrics, batches, bad_samples):
        # What is measured before the first step is measured again.
        lines.cut_after(step or -1)
    trackers: list[Tracker] = []
    if is_main:
        name = run.path.name
        trackers = build_trackers(config.logging.trackers, run.path, name, encode_absolute(config), resumed_step=step)
    try:
        with metrics, batches, bad_samples:
            yield Records(metrics, batches, bad_samples, trackers, progress)
    finally:
        for tracker in trackers:
            tracker.close()
