"""Every config key: its type, its default, its meaning.

This file is the only list of keys, and nothing else. The decoder reads types and ranges from it, `docs/config-keys.md`
is made from it, and a key without a `doc` cannot be written, because `key` asks for one. It decides nothing about how
keys depend on each other: `check.py` does.
"""

# `key` makes a fresh field for every call, which ruff cannot see.
# ruff: noqa: RUF009

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vlmforge.config.keys import key

GROUPS = ("model", "parallelism", "data", "stage", "launch", "scale")
SECTIONS = ("run", "checkpointing", "logging", "evaluate")

# The label of a token that is not trained, as torch and transformers have it.
IGNORE_INDEX = -100

Dtype = Literal["float32", "bfloat16"]
WeightUnit = Literal["samples", "tokens", "epochs"]


@dataclass(frozen=True)
class ImageConfig:
    """How pictures become tokens; which keys have an effect depends on the family."""

    min_pixels: int | None = key(
        None,
        "Smaller pictures are scaled up to this many pixels (Qwen-VL); null: as the folder of `pretrained` says, else "
        "as published.",
        minimum=1,
        example=65536,
    )
    max_pixels: int | None = key(
        None,
        "Larger pictures are scaled down to this many pixels (Qwen-VL); null: as with min_pixels.",
        minimum=1,
        example=1048576,
    )
    max_tiles: int | None = key(
        None,
        "Most tiles that a picture is cut into, without its thumbnail (InternVL); null: as with min_pixels.",
        minimum=1,
        example=6,
    )
    num_frames: int = key(
        8,
        "Frames taken of a film, evenly spaced from its first to its last; each is a picture (InternVL: one tile).",
        minimum=1,
        example=32,
    )
    tile_selector: Literal["closest", "area_weighted"] | None = key(
        None,
        "Which grid of tiles a picture gets: the nearest in shape, or in shape and area together (stitched models).",
        example="area_weighted",
    )
    thumbnail: bool | None = key(
        None, "Whether a small copy of the whole picture follows several tiles (stitched models).", example=True
    )
    tile_tags: Literal["none", "default", "yi", "llama3p1"] | None = key(
        None,
        "Text before each tile, `<tile_1>` and so on, which differs in the thumbnail's (stitched models).",
        example="default",
    )
    tokenization: Literal["megatron", "hf"] | None = key(
        None,
        "How tile tags become tokens: each by itself, as Megatron trains, or a picture's first one together with the "
        "text before it, as the code beside NVLM's released weights does (stitched models with tile tags).",
        example="megatron",
    )
    image_tag: Literal["none", "internvl", "nvlm"] | None = key(
        None,
        "Text around a picture: `<img>` and `</img>`, or `<Image>` and `</Image>` (stitched models).",
        example="nvlm",
    )
    special_tokens: tuple[str, ...] | None = key(
        None,
        "Tokens that the tokenizer has or is given, all or none of them; the first stands for pictures (stitched "
        "models).",
        example=["<image>", "<img>", "</img>"],
    )


@dataclass(frozen=True)
class ModelConfig:
    """The model: its family, its weights, its shape, its tokenizer."""

    family: str | None = key(
        None, "Model family, a file of `src/vlmforge/models`; null: named by the `model_type` of `pretrained`."
    )
    pretrained: str | None = key(
        None, "Hub id or folder that weights, tokenizer and shape come from; null: none.", example="runs/my-run/export"
    )
    revision: str | None = key(
        None, "Commit, tag or branch of the hub id in `pretrained`; null: its main branch.", example="main"
    )
    init: Literal["pretrained", "random"] = key(
        "pretrained", "Where the first weights come from: read from `pretrained`, or drawn from `run.seed`."
    )
    dtype: Dtype = key("float32", "Type in which weights are stored and updated by the optimizer.")
    config: Mapping[str, Any] = key(
        dict, "Shape of the model in Hugging Face's field names, for example `num_hidden_layers`."
    )
    image: ImageConfig = key(ImageConfig, "How pictures become tokens.")
    cache_image_embeds: bool = key(
        False,
        "Keep what a frozen vision tower gives for a tile on disk, and read it in later epochs and runs (stitched "
        "models).",
    )
    image_cache_gib: float = key(
        20.0, "With cache_image_embeds: most disk space for features, those of other towers included, in GiB.", above=0
    )
    image_cache_dir: str | None = key(
        None, "With cache_image_embeds: the folder; null: `~/.cache/vlmforge/image_embeds`.", example="/scratch/embeds"
    )
    tokenizer: str | None = key(
        None, "Hub id or folder of the tokenizer, or `builtin:bytes`; null: the one of `pretrained`."
    )
    chat_template: str | None = key(
        None,
        "Path of a Jinja chat template, or one of ours such as `builtin:chatml` or `builtin:llama3p1` (docs/data.md); "
        "`builtin:none`: none, a prompt is the text itself; null: the tokenizer's own.",
    )
    attention: Literal["varlen", "sdpa", "eager"] = key(
        "varlen",
        "Attention: `varlen` looks at each sample of a packed row alone; `sdpa` and `eager` mask the whole row.",
    )
    kernels: Literal["torch", "liger"] = key(
        "torch",
        "Norms, rotary positions and MLP in training: torch's own operations, or the Triton kernels of the package "
        "liger-kernel, on CUDA only.",
    )
    trust_remote_code: bool = key(
        False, "Run Python code that comes with `pretrained`; counts on the command line only."
    )


@dataclass(frozen=True)
class ParallelismConfig:
    """How many processes share the work, and in which precision they compute."""

    dp_replicate: int = key(
        1, "Number of copies of the sharded model (HSDP); gradients are summed over them.", minimum=1
    )
    dp_shard: int = key(
        -1,
        "Number of ranks that weights, gradients and optimizer are sharded over (FSDP2); -1: all that are left.",
        minimum=-1,
        example=1,
    )
    tp: int = key(1, "Tensor-parallel ranks, each with its heads and its part of every width.", minimum=1)
    cp: int = key(1, "Context-parallel ranks: each micro-batch's tokens are shared out among them.", minimum=1)
    cp_style: Literal["ulysses"] = key("ulysses", "How `cp` exchanges data: all-to-all between sequence and heads.")
    ep: int = key(
        1,
        "Ranks that share a layer's experts, each holding some whole: a multiple of tp that divides dp_shard x cp x tp "
        "and adds no ranks. 1: the ranks of tp share them.",
        minimum=1,
    )
    pp: int = key(1, "Pipeline stages; only 1 in this version.", minimum=1)
    param_dtype: Dtype = key("bfloat16", "Type in which forward and backward are computed.")
    reduce_dtype: Dtype = key("float32", "Type in which gradients are summed over ranks.")
    recompute: Literal["none", "selective", "full"] = key(
        "none",
        "Activations computed again in the backward pass to save memory: none, all but matrix products and "
        "attention, or every layer.",
    )
    compile: bool = key(
        False, "Compile each layer of the language model with torch.compile; docs/training.md says what it gains."
    )
    cpu_offload: bool = key(
        False,
        "Keep sharded weights, gradients and optimizer in CPU memory and update there; for GPUs, not yet run on one by "
        "us.",
    )


@dataclass(frozen=True)
class SourceConfig:
    """One source of a blend, or a blend inside a blend."""

    path: tuple[str, ...] = key(
        tuple,
        "File, pattern or list of them (.jsonl, .json, .parquet, .csv, .tsv, .tar; `*` or `{000..009}`; local or an "
        "fsspec URL), a folder that energon has prepared, a `datasets` folder or hub id, `builtin:<name>`, or the YAML "
        "file of an energon blend.",
        example="data/train.jsonl",
    )
    format: str = key("", "How a row becomes a sample; docs/data.md lists the formats.", example="messages")
    name: str | None = key(None, "Name in logs, ledger and sample ids; null: the file's stem.")
    split: str | None = key(
        None, "Split of a prepared or `datasets` folder, of a hub id, or of an energon blend.", example="train"
    )
    streaming: bool = key(
        False, "Read a `datasets` folder or hub id from start to end as it arrives, without a copy on this machine."
    )
    rows: tuple[int, int] | None = key(None, "Use rows [start, stop) only.", example=[0, 1000])
    weight: float | None = key(
        None,
        "What this source gives, relative to the others of its list and in the list's `weight_unit`; null: every row "
        "once an epoch.",
        above=0,
        example=1.0,
    )
    max_samples: int | None = key(
        None,
        "This source ends after so many samples; the others go on in their proportions.",
        minimum=1,
        example=10000,
    )
    max_epochs: float | None = key(
        None, "This source ends after so many passes over its rows; the others go on.", above=0, example=3
    )
    columns: Mapping[str, str] = key(
        dict, "Where the format's fields are, dotted for nested columns, for example `prompt: extra_info.question`."
    )
    media_root: str | None = key(
        None,
        "Folder or fsspec URL where relative paths of images in the rows start; null: the folder of the file.",
        example="data/images",
    )
    subflavors: Mapping[str, Any] = key(
        dict, "Labels that choose how energon's samples are read, for example `VQASFT: true`."
    )
    fetch_media: bool = key(
        False, "Fetch images whose rows give an address on the network; false: such samples are bad."
    )
    sources: tuple[SourceConfig, ...] = key(
        tuple, "In place of `path`: a list of sources that share this one's weight, with the same keys as here."
    )
    weight_unit: WeightUnit | None = key(
        None, "Unit of the weights in `sources`; null: that of the list around it.", example="samples"
    )


@dataclass(frozen=True)
class DataConfig:
    """What is trained on, in which order, and what happens to samples that do not fit."""

    train: tuple[SourceConfig, ...] = key(tuple, "Sources to train on, or the YAML file of an energon blend.")
    validation: tuple[SourceConfig, ...] = key(
        tuple, "Sources for validation loss and tasks, read in file order, or the YAML file of an energon blend."
    )
    weight_unit: WeightUnit = key(
        "samples",
        "What the weights of `train` divide: the samples drawn, their tokens (by mean lengths that are measured when "
        "training starts), or nothing: a weight is then a number of epochs.",
    )
    prompts: str | None = key(
        None,
        "JSON file of prompt lists (category, variant, list) for captions, documents and questions; null: those of "
        "the package.",
        example="prompts.json",
    )
    shuffle: bool = key(True, "Shuffle every epoch; false: file order, sources one after the other.")
    seed: int = key(0, "Seed of the order of samples.", minimum=0)
    num_workers: int = key(0, "Processes that prepare samples; 0: the training process itself.", minimum=0)
    on_too_long: Literal["error", "drop", "truncate"] = key(
        "error", "A sample longer than `stage.seq_len`: stop, leave it out (counted), or cut its end (counted)."
    )
    shrink_images: bool = key(
        False,
        "Where a sample is longer than `stage.seq_len`, give all its pictures fewer tiles or pixels, a step at a time, "
        "until it fits (counted); what does not fit at the last step is too long.",
    )
    on_bad_sample: Literal["error", "skip"] = key(
        "error", "A sample that cannot be read or has no label: stop, or leave it out (counted)."
    )
    max_bad_ratio: float = key(
        0.01, "With on_bad_sample=skip: stop when more than this share of the samples is bad.", minimum=0, maximum=1
    )


@dataclass(frozen=True)
class AdapterConfig:
    """LoRA (Hu et al. 2021, arXiv:2106.09685), as peft builds it."""

    rank: int = key(16, "Rank of the two low-rank matrices.", minimum=1)
    alpha: float = key(32.0, "Scale: the update is multiplied by alpha / rank.", above=0)
    dropout: float = key(0.0, "Dropout on the adapter's input.", minimum=0, maximum=1)
    target_modules: Literal["all-linear"] | tuple[str, ...] = key(
        "all-linear", "Names of linear modules that get an adapter; `all-linear`: all but the output head."
    )
    path: str | None = key(None, "PEFT folder to start from; null: a new adapter.", example="runs/my-lora/export")


@dataclass(frozen=True)
class GroupLrConfig:
    """Peak learning rates of module groups, where they are not `stage.optimizer.lr`."""

    vision_tower: float | None = key(
        None, "Peak learning rate of the vision tower; null: `stage.optimizer.lr`.", above=0, example=1e-6
    )
    projector: float | None = key(
        None, "Peak learning rate of the projector; null: `stage.optimizer.lr`.", above=0, example=1e-4
    )
    language_model: float | None = key(
        None,
        "Peak learning rate of the language model beside a tower; null: `stage.optimizer.lr`.",
        above=0,
        example=1e-5,
    )


@dataclass(frozen=True)
class OptimizerConfig:
    """The update rule."""

    name: Literal["adamw"] = key("adamw", "Optimizer.")
    lr: float = key(1e-5, "Peak learning rate.", above=0)
    group_lr: GroupLrConfig = key(
        GroupLrConfig, "Peak learning rates of module groups, adapters in them included; the schedule is one for all."
    )
    betas: tuple[float, float] = key((0.9, 0.95), "Decay rates of AdamW's two moments.", minimum=0, maximum=1)
    eps: float = key(1e-8, "Added to the denominator of AdamW.", above=0)
    weight_decay: float = key(0.01, "Decoupled weight decay.", minimum=0)
    decay: Literal["all", "matrices"] = key(
        "all", "What decays: every parameter, or only matrices (no norms, no biases), as in Megatron."
    )
    max_grad_norm: float | None = key(
        1.0, "Clip the global gradient norm to this; null: no clipping.", above=0, example=1.0
    )


@dataclass(frozen=True)
class LossConfig:
    """What the loss of a step is a mean of."""

    weighting: Literal["tokens", "sqrt_turns"] = key(
        "tokens",
        "`tokens`: each trained token counts alike; `sqrt_turns`: each sample counts as one, and in it each turn by "
        "the square root of its trained tokens, as in Megatron's training of Nemotron-Nano-VL.",
    )


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over steps; the first update uses the factor of step 0."""

    name: Literal["constant", "linear", "cosine", "wsd"] = key(
        "cosine",
        "Shape after warm-up: constant; linear or cosine decay; wsd holds for 90% of the rest and decays by cosine.",
    )
    warmup_steps: int | None = key(None, "Steps of linear warm-up from 0.", minimum=0, example=10)
    warmup_samples: int | None = key(None, "Warm-up counted in samples (rows).", minimum=0, example=10000)
    warmup_ratio: float | None = key(None, "Warm-up as a share of all steps.", minimum=0, maximum=1, example=0.1)
    decay_steps: int | None = key(
        None, "Step at which the decay has ended; null: the last step.", minimum=1, example=100
    )
    decay_samples: int | None = key(None, "The same counted in samples (rows).", minimum=1, example=100000)
    min_lr_ratio: float = key(0.0, "Lowest learning rate, as a share of the peak.", minimum=0, maximum=1)


@dataclass(frozen=True)
class GenerationConfig:
    """How text is generated."""

    max_new_tokens: int = key(256, "Most tokens to generate for a prompt.", minimum=1)
    temperature: float = key(0.0, "Sampling temperature; 0: always the likeliest token.", minimum=0)
    top_p: float = key(1.0, "Sample from the likeliest tokens that hold this probability.", above=0, maximum=1)
    top_k: int = key(0, "Sample from this many likeliest tokens; 0: all.", minimum=0)
    seed: int = key(0, "Seed of the sampling.", minimum=0)
    batch_size: int = key(8, "Prompts generated at once.", minimum=1)


@dataclass(frozen=True)
class StageConfig:
    """What is done with the model: objective, batch, length, optimizer."""

    kind: Literal["pretrain", "sft", "lora", "generate"] = key("sft", "What this stage does.")
    labels: Literal["all", "assistant"] = key(
        "assistant", "Tokens that are trained: all, or the assistant's turns with their end marker."
    )
    trainable: tuple[str, ...] | None = key(
        None, "Module groups trained in full; null: all of them, or none with an adapter.", example=["language_model"]
    )
    adapter: AdapterConfig | None = key(None, "LoRA, trained alone: `trainable` is empty beside it; null: none.")
    frozen_in_eval: bool = key(
        True,
        "Keep a vision tower of which nothing is trained in evaluation mode; false: its dropout and random crops of "
        "positions stay on, as in Megatron's training of Nemotron-Nano-VL.",
    )
    seq_len: int = key(2048, "Longest sample, and the length of a packed row, in tokens.", minimum=8)
    packing: Literal["none", "best_fit", "knapsack"] = key(
        "none",
        "How samples share rows within a window: not at all, best fit, or row by row with the longest that fits, as "
        "Megatron's multimodal training packs.",
    )
    packing_window: int = key(
        1024, "Consecutive samples that are packed together, fewer at the end of an epoch.", minimum=1
    )
    micro_batch_size: int = key(1, "Rows per data rank per forward.", minimum=1)
    max_tokens_per_micro_batch: int | None = key(
        None,
        "With packing none: cut the rows of a step into as few micro-batches as hold at most this many tokens each; "
        "null: micro-batches of `micro_batch_size` rows.",
        minimum=8,
        example=8192,
    )
    global_batch_size: int = key(8, "Rows per optimizer step, over all ranks.", minimum=1)
    max_steps: int | None = key(None, "Stop after this many optimizer steps.", minimum=1, example=100)
    max_epochs: float | None = key(
        None,
        "Stop after this many passes over the training data; with max_steps the sooner counts.",
        above=0,
        example=1,
    )
    loss: LossConfig = key(LossConfig, "What the loss of a step is a mean of.")
    optimizer: OptimizerConfig = key(OptimizerConfig, "The update rule.")
    schedule: ScheduleConfig = key(ScheduleConfig, "The learning rate over steps.")
    generation: GenerationConfig = key(GenerationConfig, "How text is generated, by `generate` and by tasks.")


@dataclass(frozen=True)
class RunConfig:
    """Where a run lives and how it is seeded."""

    name: str | None = key(None, "Name of the run folder; null: the recipe's name with `/` as `-`.", example="my-run")
    output_dir: str = key("runs", "Folder that holds the run folders.")
    seed: int = key(0, "Seed of random weights and of dropout.", minimum=0)
    deterministic: bool = key(False, "Only deterministic kernels; on CUDA slower.")
    stop_after_steps: int | None = key(
        None, "Save and stop after this step, with the schedule of the whole run.", minimum=1, example=10
    )


@dataclass(frozen=True)
class CheckpointingConfig:
    """When state is saved, kept and exported."""

    every_steps: int | None = key(
        None, "Save every N steps, besides the last; null: the last only.", minimum=1, example=100
    )
    keep_last: int = key(2, "Checkpoints kept; older ones are deleted after a newer one is complete.", minimum=1)
    async_save: bool = key(False, "Write checkpoints while training goes on; only false in this version.")
    resume: str = key(
        "auto", "`auto`: go on where the run folder stopped; `never`: refuse a folder that exists; or a step folder."
    )
    export: Literal["last", "never"] | int = key(
        "last", "Write `export/` at the end, never, or also every N steps.", minimum=1
    )
    export_merged: bool = key(
        False, "With an adapter: write `merged/` too, the base model with the adapter added to its weights."
    )


@dataclass(frozen=True)
class LoggingConfig:
    """What is shown and recorded."""

    every_steps: int = key(1, "Print a line every N steps; metrics.jsonl has every step.", minimum=1)
    sample_ids: bool = key(False, "Write the sample ids of every step to batches.jsonl.")
    trackers: tuple[str, ...] | None = key(
        None, "Trackers, of tensorboard and wandb; null: tensorboard where it is installed.", example=["tensorboard"]
    )


@dataclass(frozen=True)
class EvaluateConfig:
    """Measurements on held-out data."""

    tasks: tuple[str, ...] = key(tuple, "Tasks scored on `data.validation` after training.", example=["exact_match"])
    limit: int | None = key(None, "Use the first N validation samples for tasks; null: all.", minimum=1, example=50)
    before: bool = key(False, "Measure validation loss and tasks before the first step too.")
    every_steps: int | None = key(
        None, "Measure validation loss every N steps, besides the end.", minimum=1, example=100
    )


@dataclass(frozen=True)
class LaunchConfig:
    """How the ranks are started."""

    kind: Literal["local", "slurm", "kubernetes", "print"] = key(
        "local",
        "Who starts the ranks, chosen as a group (`launch=slurm`): this command, a Slurm job, a Kubernetes job, or "
        "nobody: print shows the command.",
    )
    num_nodes: int | None = key(None, "Machines.", minimum=1, example=1)
    processes_per_node: int | None = key(None, "Ranks on each machine.", minimum=1, example=8)
    device: Literal["auto", "cpu", "cuda"] = key("auto", "Where tensors live; auto: cuda where there is one.")
    timeout_seconds: float = key(
        1800.0,
        "Longest wait of one rank for the others, in a collective or a forward or backward pass; then the run ends "
        "with a report of where each rank is.",
        above=0,
    )
    preflight_seconds: float = key(
        300.0,
        "Longest wait for all ranks to be there and to sum one number, before anything is loaded.",
        above=0,
    )
    submit: bool = key(False, "With slurm and kubernetes: hand the job in (sbatch, kubectl apply) after writing it.")
    folder: str | None = key(
        None, "With slurm and kubernetes: where the job and its recipe are written; null: `launch/` in the run folder."
    )
    host: str | None = key(
        None, "With print: name or address of the machine where all meet; null: this machine.", example="10.0.0.1"
    )
    port: int = key(29500, "Port at which the machines meet.", minimum=1024, maximum=65535)
    max_restarts: int = key(
        0,
        "How often torchrun starts all ranks again after one has failed; they go on from the last checkpoint.",
        minimum=0,
    )
    stop_seconds: int = key(
        300,
        "How long ranks that are told to stop (SIGTERM) may take to finish their step and save before they are killed; "
        "with slurm and a time limit they are told this long before it.",
        minimum=1,
    )
    requeue: bool = key(
        False,
        "Slurm puts the job into its queue again after it was stopped and has saved, or has lost a machine; it goes on "
        "from its last checkpoint.",
    )
    cpus_per_node: int | None = key(
        None,
        "CPU cores of each machine for the job; null: a whole machine with slurm, no request with kubernetes.",
        minimum=1,
        example=16,
    )
    memory_gib_per_node: int | None = key(
        None,
        "Memory of each machine for the job; null: with slurm all of a whole machine, or the cluster's default beside "
        "cpus_per_node; with kubernetes no request and no limit.",
        minimum=1,
        example=256,
    )
    environment: Mapping[str, str] = key(
        dict, "Environment variables of the ranks, `{NCCL_SOCKET_IFNAME: eth0}`; none that names code to run."
    )
    image: str | None = key(
        None,
        "Container image: of the pods, or for srun --container-image (pyxis); with slurm null: no container.",
        example="vlmforge:0.1.0",
    )
    partition: str | None = key(None, "Slurm partition; null: the cluster's default.", example="gpu")
    account: str | None = key(None, "Slurm account; null: yours by default.", example="my-project")
    time_limit: str | None = key(
        None, "Slurm time limit, as [days-]hours:minutes:seconds; null: the partition's.", example="1-00:00:00"
    )
    namespace: str | None = key(None, "Kubernetes namespace; null: that of the context.", example="training")
    volumes: Mapping[str, str] = key(
        dict,
        "What is mounted where: with kubernetes persistent volume claims, `{my-claim: /data}`; with slurm and an image "
        "folders of the machines, `{/scratch/data: /data}`.",
    )
    secrets: Mapping[str, str] = key(
        dict, "Environment variables from secrets of Kubernetes, as `{NAME: secret/entry}`."
    )
    pod: Mapping[str, Any] = key(
        dict,
        "More of the pods' specification, in Kubernetes' words: nodeSelector, tolerations, affinity, securityContext "
        "(fsGroup), imagePullSecrets, serviceAccountName; with pytorchjob also priorityClassName and schedulerName.",
    )
    manifest: Literal["pytorchjob", "trainjob"] = key(
        "pytorchjob",
        "Kind of the Kubernetes job: PyTorchJob (Training Operator v1) or TrainJob (Kubeflow Trainer, 2.2 or newer).",
    )


@dataclass(frozen=True)
class ScaleConfig:
    """Full size, or the same recipe made tiny."""

    name: Literal["full", "tiny"] = key(
        "full", "Chosen as a group, `scale=tiny`; in the body of a recipe it only records what was chosen."
    )


@dataclass(frozen=True)
class Config:
    """A whole recipe, composed and decoded."""

    model: ModelConfig = key(ModelConfig, "The model.")
    parallelism: ParallelismConfig = key(ParallelismConfig, "The mesh and the precision.")
    data: DataConfig = key(DataConfig, "The data.")
    stage: StageConfig = key(StageConfig, "The training.")
    run: RunConfig = key(RunConfig, "The run folder.")
    checkpointing: CheckpointingConfig = key(CheckpointingConfig, "Saving.")
    logging: LoggingConfig = key(LoggingConfig, "Reporting.")
    evaluate: EvaluateConfig = key(EvaluateConfig, "Measuring.")
    launch: LaunchConfig = key(LaunchConfig, "Starting.")
    scale: ScaleConfig = key(ScaleConfig, "The size.")
