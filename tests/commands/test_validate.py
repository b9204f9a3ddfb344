"""Bad recipes through the command itself: what is said, where it was said, what works, and the exit code."""

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vlmforge
from vlmforge.cli import main

RECIPE = """# A recipe with every part
defaults:
  - /model: tiny_llama
  - /parallelism: single
  - /data: dates
  - /stage: sft
  - _self_

stage:
  max_steps: 10
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE)
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(list(words))
    return code, capsys.readouterr().err


def blocks(report: str) -> list[dict[str, str]]:
    """The three lines of every error."""
    *found, _ = report.strip().split("\n\n")
    return [
        dict(line.split(": ", 1) for line in re.sub(r"^fix:  ", "fix:", block, flags=re.M).splitlines())
        for block in found
    ]


# override, part of the message, part of the remedy
BAD_OVERRIDES = [
    ("stage.sq_len=3", "stage.sq_len = 3: there is no such key", "stage.seq_len"),
    ("stage.lr=1e-5", "stage.lr = 1e-5: there is no such key", "lr lives at stage.optimizer.lr"),
    ("modle.family=llama", "modle", "use model"),
    ("~stage.max_epoch", "~stage.max_epoch: there is no such key", "use ~stage.max_epochs"),
    ("~foo", "~foo: there is no such key", "remove it"),
    ("stage.train_on_inputs=false", "there is no such key", "remove it"),
    ("stage.learning_rate=1e-4", "there is no such key", "learning_rate is stage.optimizer.lr here"),
    ("stage.max_steps=2.5", "stage.max_steps = 2.5 must be a whole number of at least 1", "stage.max_steps="),
    ("stage.max_steps=0", "stage.max_steps = 0 must be a whole number of at least 1", "stage.max_steps="),
    ("stage.max_steps=true", "stage.max_steps = true must be a whole number", "stage.max_steps="),
    ("stage.optimizer.lr=fast", "stage.optimizer.lr = fast must be a number of more than 0", "stage.optimizer.lr="),
    ("stage.optimizer.lr='1e-4'", 'stage.optimizer.lr = "1e-4"', "stage.optimizer.lr=0.0001 (without quotes)"),
    ("stage.optimizer.betas=[0.9]", "a list of 2 numbers, not 1", "stage.optimizer.betas="),
    ("stage.packing=knapsac", "must be none, best_fit or knapsack", "stage.packing=none"),
    ("data.max_bad_ratio=1.5", "must be a number of at least 0 and at most 1", "data.max_bad_ratio=0.01"),
    ("run.name=7", "run.name = 7 must be text or null", "run.name"),
    ("run.name=a/b", "must be the name of one folder", "run.name=a-b"),
    ("data.train=data.jsonl", "must be a list of sources, or the .yaml file", "data.train=["),
    ("data.train.0.sources=[{path:a.jsonl}]", "data.train.0.path has no effect on a list of sources", "remove it"),
    ("data.train.0.streaming=true stage.max_epochs=1", "has no number of them", "stage.max_steps=100"),
    ("data.train.0.streaming=true data.num_workers=2", "are made in order", "data.num_workers=1"),
    ("data.weight_unit=epochs", "no source of data.train has a weight", "data.train.0.weight=1.0"),
    ("data.train.0.weight_unit=epochs", "there are no weights in data.train.0.sources", "remove"),
    ("data.train.3.path=x", "the list has 1 item, counted from 0", "use data.train.0.path"),
    ("data.train.0.format=mesages", "is not a format", "data.train.0.format=messages"),
    ("data.train.0.columns={promt: q}", "has no field promt", "data.train.0.columns.prompt"),
    ("data.train.0.rows=[5,5]", "must be [start, stop) with 0 <= start < stop", "data.train.0.rows="),
    ("data.train.0.path='pipe:rm x'", "no value can name a command", "data.train.0.path="),
    ("data.max_bad_ratio=0.5", "has no effect with data.on_bad_sample = error", "data.on_bad_sample=skip"),
    ("data.max_bad_ratio=0.5 data.on_bad_sample=error", "has no effect", "~data.max_bad_ratio"),
    ("model=quikstart", "there is no such file in the group", "model=quickstart"),
    ("launch=slrm", "there is no such file in the group; it has", "launch=slurm"),
    ("scale.name=tiny", "chosen as a group", "scale=tiny"),
    ("model.family=lama", "is not a family of this version", "model.family=llama"),
    ("model.config.hiden_size=3", "llama has no such field", "model.config.hidden_size"),
    ("model.config.hidden_size=wide", "must be a whole number", "model.config.hidden_size=64"),
    ("model.config.num_attention_heads=3", "must divide hidden_size = 128", "model.config.hidden_size=129"),
    ("model=gemma2_2b model.attention=sdpa", "does not compute the layers of family gemma2", "model.attention=varlen"),
    ("model=qwen3_30b_a3b model.config.num_experts_per_tok=129", "must be at most num_experts = 128", "per_tok=128"),
    ("model=qwen3_30b_a3b model.config.mlp_only_layers=[48]", "names layer 48; they are 0 to 47", "remove 48"),
    ("model=qwen3_30b_a3b model.config.output_router_logits=true", "is not part of the loss", "router_logits=false"),
    ("model=gemma3_1b model.config.layer_types=[full_attention]", "one for each layer", "num_hidden_layers=1"),
    ("model=gemma3_1b model.config.sliding_window=null", "layers of kind sliding_attention need", "window=4096"),
    (
        "model=gemma3_1b model.config.attn_logit_softcapping=50.0",
        "must be null",
        "model.config.attn_logit_softcapping=",
    ),
    ("model=gemma_2b model.config.use_bidirectional_attention=true", "training is causal", "attention=false"),
    ("model=mistral_7b_v0p1 model.config.sliding_window=0", "must be at least 1", "sliding_window=4096"),
    ("model=qwen3_8b model.config.sliding_window=64", "has no effect with use_sliding_window = false", "window=true"),
    ("model=llama4_scout model.config.no_rope_layers=[1,0]", "has 2 items, and num_hidden_layers = 48", "48 items"),
    (
        "model=llama4_scout model.attention=sdpa stage.packing=best_fit stage.seq_len=16384",
        "counts chunks of 8192 tokens along the row",
        "model.attention=varlen",
    ),
    ("model.config.num_key_value_heads=3", "must divide num_attention_heads = 4; 1, 2 or 4 would do", "heads=2"),
    ("~model.config.vocab_size", "model.config.vocab_size is not set", "model.config.vocab_size=264"),
    ("model.init=pretrained", "model.pretrained is not set", "model.init=random"),
    ("model.pretrained=no/such/folder", "there is no such folder, and it is no hub id", "existing folder"),
    ("model.tokenizer=builtin:words", "the built-in tokenizer is builtin:bytes", "model.tokenizer=builtin:bytes"),
    ("model.chat_template=no.jinja", "there is no such file", "builtin:chatml"),
    ("model.attention=org/kernel", "must be varlen, sdpa or eager", "model.attention=varlen"),
    ("model.dtype=bfloat16 parallelism.param_dtype=float32", "stored with at least", "param_dtype=bfloat16"),
    (
        "parallelism.cp=3 launch.processes_per_node=3",
        "parallelism.cp = 3 must divide model num_attention_heads = 4; 1, 2 or 4 would do",
        "parallelism.cp=2",
    ),
    (
        "parallelism.cp=2 model.attention=eager",
        "its mask would be that of a rank's own tokens",
        "model.attention=varlen",
    ),
    ("model=smollm2_135m parallelism.cp=2", "num_attention_heads = 9; 1, 3 or 9 would do", "parallelism.cp=1"),
    (
        "model=smollm2_135m parallelism.tp=2",
        "divide model num_attention_heads = 9, num_key_value_heads = 3; 1 or 3 would do",
        "parallelism.tp=1",
    ),
    ("parallelism.tp=2 model.config.vocab_size=265", "divide model vocab_size = 265; 1 would do", "parallelism.tp=1"),
    (
        "model=qwen3_30b_a3b parallelism.tp=4 model.config.num_experts=126",
        "divide model num_experts = 126; 1 or 2 would do",
        "parallelism.tp=2",
    ),
    (
        "parallelism.tp=2 model.attention=sdpa model.config.attention_dropout=0.1",
        "drop the same places of different heads",
        "attention_dropout=0.0",
    ),
    ("parallelism.tp=2 model.kernels=liger", "never compared on parts of a layer", "model.kernels=torch"),
    ("parallelism.ep=2", "family llama has no experts", "parallelism.ep=1"),
    (
        "model=qwen3_30b_a3b parallelism.ep=3 parallelism.dp_shard=4",
        "must be a multiple of tp = 1 and divide dp_shard x cp x tp = 4 and model num_experts = 128",
        "parallelism.ep=2",
    ),
    (
        "model=qwen3_30b_a3b parallelism.ep=2 parallelism.tp=4",
        "num_experts = 128; 1 or 4 would do",
        "parallelism.ep=1",
    ),
    ("parallelism.pp=2", "not available in this version", "parallelism.pp=1"),
    ("parallelism.cpu_offload=true launch.device=cpu", "all is in CPU memory already", "parallelism.cpu_offload=false"),
    (
        "model=gemma2_2b parallelism.compile=true parallelism.recompute=full",
        "model attn_logit_softcapping = 50.0: such a layer is compiled in pieces",
        "parallelism.recompute=none",
    ),
    (
        "parallelism.tp=2 parallelism.compile=true parallelism.recompute=full",
        "parallelism.tp = 2: such a layer",
        "none",
    ),
    (
        "model=qwen3_30b_a3b parallelism.compile=true",
        "model num_experts = 128: such layers, compiled,",
        "compile=false",
    ),
    ("parallelism.dp_shard=0", "must be -1 (all ranks that are left) or at least 1", "parallelism.dp_shard=-1"),
    ("launch.partition=gpu", "launch.partition = gpu has no effect with launch.kind = local", "launch=slurm"),
    ("launch=slurm launch.namespace=lab", "has no effect with launch.kind = slurm", "launch=kubernetes"),
    ("launch=slurm launch.time_limit=soon", "a time as Slurm writes it", "1-00:00:00"),
    ("launch=slurm launch.partition=a@b", "must be names of partitions", "launch.partition=gpu"),
    ("launch=slurm launch.time_limit=5:00", "(300 s) leaves no time to train", "launch.time_limit=0-00:16:00"),
    ("launch=slurm launch.time_limit=0-00:06", "(360 s) leaves no time", "or launch.stop_seconds=75"),
    ("launch=slurm parallelism.dp_shard=-1", "which shows none", "launch.processes_per_node=8"),
    ("launch=slurm launch.volumes={/a:/b}", "nothing is mounted without a container", "launch.image"),
    ("launch=slurm launch.environment={LD_PRELOAD:/a.so}", "names code to run", "in the image"),
    ("launch=slurm launch.environment={RANK:'0'}", "is set by what starts the ranks", "remove it"),
    ("launch=kubernetes launch.secrets={HF_TOKEN:token}", "the name of a secret and of an entry", "hub/token"),
    ("launch=kubernetes launch.pod={hostPID:true}", "launch.pod.hostPID is none of what", "remove launch.pod.hostPID"),
    ("launch=kubernetes", "launch.image is not set, and pods need one", "docker build"),
    ("launch=kubernetes launch.volumes={claim:data}", "absolute paths", "/data"),
    ("launch.processes_per_node=3", "dp_shard = 1 must be the number of ranks = 3", "parallelism.dp_shard=3"),
    ("stage.global_batch_size=6 stage.micro_batch_size=4", "must be a multiple of", "=8 or 4"),
    ("stage.kind=lora", "stage.kind = lora needs stage.adapter", "stage.adapter.rank=16"),
    ("stage.kind=pretrain stage.adapter.rank=2", "trains the weights themselves", "stage.adapter=null"),
    ("stage.adapter.rank=2", "stage.kind = sft trains the weights themselves", "stage.kind=lora"),
    ("stage.kind=lora stage.adapter.path=nowhere", "no PEFT folder", "the export/ of a LoRA run"),
    ("stage.trainable=[vision]", "has no group vision", "language_model"),
    ("stage.trainable=[]", "nothing would be trained", "language_model"),
    ("~stage.max_steps", "the run would not end", "stage.max_steps=100"),
    ("stage.schedule.warmup_steps=3", "warm-up has one length", "~stage.schedule.warmup_ratio"),
    ("~stage.schedule.warmup_ratio stage.schedule.warmup_steps=10", "must end before", "warmup_ratio=0.1"),
    ("stage.schedule.name=constant stage.schedule.decay_steps=5", "has no effect", "~stage.schedule.decay_steps"),
    ("stage.optimizer.betas=[0.9,1.0]", "must both be below 1", "stage.optimizer.betas="),
    ("stage.adapter.target_modules=3", "must be all-linear or a list of texts", "stage.adapter.target_modules"),
    ("data.train.0.format=text", "plain text has no assistant turns", "stage.labels=all"),
    ("data.train.0.path=", "data.train.0.path is not set", "data.train.0.path=data/train.jsonl"),
    ("model.tokenizer=no/such/folder", "there is no such folder, and it is no hub id", "builtin:bytes"),
    ("model.pretrained=my_model", "there is no such folder, and it is no hub id", "existing folder"),
    ("model.config.attention_dropout=0.1", "not available with model.attention = varlen", "model.attention=sdpa"),
    ("model.kernels=liger launch.device=cpu", "runs on CUDA only, and launch.device = cpu", "model.kernels=torch"),
    ("model.kernels=liger model.family=gemma2", "is for the families gemma, llama", "model.kernels=torch"),
    ("model.kernels=trition", "must be torch or liger", "model.kernels=torch"),
    ("model.revision=v1", "has no effect: there is no model.pretrained", "~model.revision"),
    ("model.revision=v1 model.pretrained=.", "model.pretrained = . is a folder", "~model.revision"),
    ("model.family=glob(*)", "a value is a number, text, a list", "'model.family=\"glob(*)\"'"),
    ("model.config={null:1}", "a mapping whose names are text", "model.config="),
    ("~scale", "the scale is chosen as a group", "scale=full"),
    ("stage.generation.top_p=0.5", "has no effect with temperature = 0", "stage.generation.temperature=1.0"),
    ("stage.packing_window=5", "has no effect with stage.packing = none", "stage.packing=best_fit"),
    ("stage.max_tokens_per_micro_batch=1000", "must be at least stage.seq_len = 1024", "micro_batch=1024"),
    (
        "stage.max_tokens_per_micro_batch=2048 stage.packing=best_fit",
        "is for rows of different lengths",
        "stage.packing=none",
    ),
    (
        "stage.max_tokens_per_micro_batch=2048 stage.micro_batch_size=1",
        "are both set, and micro-batches are cut by tokens or by rows",
        "~stage.micro_batch_size",
    ),
    (
        "stage.max_tokens_per_micro_batch=2048 stage.global_batch_size=1 parallelism.dp_shard=2",
        "must be at least the number of data ranks = 2",
        "stage.global_batch_size=2",
    ),
    ("run.stop_after_steps=11", "must be at most stage.max_steps = 10", "run.stop_after_steps=10"),
    ("checkpointing.resume=atuo", "must be auto, never or a step folder", "checkpointing.resume=auto"),
    ("logging.trackers=[tensorbord]", "is not a tracker", "tensorboard"),
    ("model.pretrained=HuggingFaceTB/SmolLM2-135M", "would not be loaded", "add model.init=pretrained"),
    ("evaluate.tasks=[gsm]", "is not a task", "gsm8k"),
    (
        "checkpointing.export=never evaluate.tasks=[exact_match]",
        "needs the exported model",
        "checkpointing.export=last",
    ),
    ("checkpointing.export_merged=true", "needs stage.adapter", "checkpointing.export_merged=false"),
    (
        "stage=lora checkpointing.export_merged=true checkpointing.export=never",
        "is written with export/",
        "checkpointing.export=last",
    ),
    ("data.validation=[] evaluate.before=true", "needs data.validation", "data.validation="),
    ("a=1,2", "a run has one value for each key", "'a=[1,2]'"),
    ("model.pretrained=/a b=c", "the value needs quotes", "'model.pretrained=\"/a b=c\"'"),
    ("stage", "arguments and overrides are written key=value", "stage"),
    ("hydra.run.dir=x", "hydra is not a key", "remove"),
    ("stage.seq_len=${stage.nothing}", "nothing", "refer to a key that is set"),
]


@pytest.mark.parametrize(("overrides", "message", "remedy"), BAD_OVERRIDES, ids=lambda value: value[:40])
def test_a_bad_override_is_answered_with_a_remedy_and_its_place(
    overrides: str, message: str, remedy: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    is_one_word = "pipe:" in overrides or "/a b" in overrides or "columns" in overrides
    words = [overrides] if is_one_word else overrides.split(" ")
    code, report = run(capsys, "validate", f"recipe={recipe.name}", *words)
    assert code == 2
    matching = [block for block in blocks(report) if message in block["error"]]
    assert matching, report
    assert remedy in matching[0]["fix"]
    said = [f"command line: {word}" for word in words]
    is_absent = any(word.startswith("~") for word in words) or "is not set" in message or "quickstart.yaml:" in report
    assert matching[0]["where"] in said or is_absent


@pytest.mark.parametrize(
    "overrides",
    [
        "model=smollm2_135m parallelism.tp=2",
        "model=qwen3_30b_a3b parallelism.dp_shard=2 parallelism.ep=3",
        "parallelism.cp=3",
        "launch=slurm launch.time_limit=5",
        "~data.validation evaluate.every_steps=0",
    ],
)
def test_one_mistake_is_one_error_and_its_fix_can_be_pasted_whole(
    overrides: str, recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmforge.commands.validate._check_on_meta", lambda config: [])
    words = overrides.split(" ")
    _, report = run(capsys, "validate", f"recipe={recipe.name}", *words)
    (found,) = blocks(report)
    assert found["where"] == f"command line: {words[-1]}"
    assert run(capsys, "validate", f"recipe={recipe.name}", *words[:-1], *shlex.split(found["fix"])) == (0, "")


def test_an_axis_that_was_set_to_one_is_blamed_for_a_wrong_product(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The recipe says cp 2, in a file.
    words = ("recipe=qwen2p5_0p5b/gsm8k_sp2", "check_data=false", "world_size=4", "parallelism.dp_shard=1")
    code, report = run(capsys, "validate", *words)
    assert code == 2
    (found,) = blocks(report)
    assert found["error"] == "parallelism.dp_shard x cp = 1 x 2 = 2 must be the number of ranks = 4 (world_size)"
    assert (found["where"], found["fix"]) == ("command line: parallelism.dp_shard=1", "parallelism.dp_shard=2")


BAD_FILES = [
    ("stage: {max_steps: 3", 'stage:\n  max_steps: "3"', "must be a whole number", 10),
    ("unknown key", "stage:\n  max_step: 3", "there is no such key", 10),
    ("code", "stage:\n  max_steps: 3\nmodel:\n  _target_: os.system", "no value can name code", 12),
    ("trust", "stage:\n  max_steps: 3\nmodel:\n  trust_remote_code: true", "only from the command line", 12),
    (
        "trust by reference",
        "stage:\n  max_steps: 3\nmodel:\n  trust_remote_code: ${model.config.tie_word_embeddings}",
        "only from the",
        12,
    ),
    (
        "trust by section",
        "stage:\n  max_steps: 3\nmodel: \"${oc.decode:'{trust_remote_code: true}'}\"",
        "only from the",
        11,
    ),
    ("hydra", "stage:\n  max_steps: 3\nhydra:\n  run: {dir: x}", "hydra is not a key", 11),
    ("mesh twice", "stage:\n  max_steps: 3\nparallelism:\n  dp_shard: 2", "in its parallelism file", 12),
    ("key twice", "stage:\n  max_steps: 3\n  max_steps: 4", "written twice", 11),
    ("syntax", "stage: [1\nrun: 2", "is not valid YAML", 10),
    ("tag", "stage:\n  max_steps: !!python/name:os.system 3", "has the YAML tag", 10),
    ("section", "stage: 3", "must be a section of keys", 9),
]


@pytest.mark.parametrize(("name", "body", "message", "line"), BAD_FILES, ids=[bad[0] for bad in BAD_FILES])
def test_a_bad_line_of_a_recipe_is_named_by_its_number(
    name: str, body: str, message: str, line: int, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(RECIPE.replace("stage:\n  max_steps: 10", body))
    code, report = run(capsys, "validate", f"recipe={recipe.name}")
    assert code == 2
    matching = [block for block in blocks(report) if message in block["error"]]
    assert matching, report
    assert re.match(rf"mine\.yaml:{line}\b", matching[0]["where"]), report


def test_all_mistakes_of_files_and_command_line_are_listed_at_once(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(RECIPE.replace("/model: tiny_llama", "/model: quikstart") + "hydra: {}\n")
    words = ["stage.sq_len=3", "a=1,2", "parallelism.pp=2", "data=nothing", "run.seed=x"]
    code, report = run(capsys, "validate", f"recipe={recipe.name}", *words)
    assert code == 2
    for part in ("model = quikstart", "hydra is not", "stage.sq_len", "a = 1,2", "parallelism.pp", "data = nothing"):
        assert part in report
    assert "run.seed = x" in report
    assert report.strip().endswith(f"{len(blocks(report))} errors")


def test_a_broken_file_does_not_hide_the_mistakes_of_the_command_line(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text("stage: [1\n")
    code, report = run(capsys, "validate", f"recipe={recipe.name}", "stage.sq_len=3")
    assert code == 2
    assert "is not valid YAML" in report
    assert "stage.sq_len" in report


@pytest.mark.parametrize("content", [b"# caf\xe9\nstage: {}\n", b"stage: {}\n\x07"])
def test_a_file_that_is_no_text_is_told_so(content: bytes, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.write_bytes(content)
    code, report = run(capsys, "validate", f"recipe={recipe.name}")
    assert code == 2
    assert "is not YAML in UTF-8" in report


def test_a_group_file_whose_shape_is_no_mapping_is_told_so(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("model").mkdir()
    Path("model/mine.yaml").write_text("config: 5\n")
    code, report = run(capsys, "validate", f"recipe={recipe.name}", "model=mine")
    assert code == 2
    assert "model.config = 5 must be a mapping" in report


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_loaded(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmforge.config.rules.run.find_spec", lambda package: None)
    code, report = run(capsys, "validate", f"recipe={recipe.name}", "logging.trackers=[wandb]")
    assert code == 2
    assert "pip install 'vlmforge[wandb]'" in blocks(report)[0]["fix"]


def test_an_unknown_recipe_names_the_nearest(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run(capsys, "validate", "recipe=smollm2/gsm8k")
    assert code == 2
    assert "recipe=smollm2/gsm8k_sft" in blocks(report)[0]["fix"]


def test_a_path_that_does_not_exist_is_no_name(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run(capsys, "validate", "recipe=recipes/nothing.yml")
    assert code == 2
    assert "no such file" in report


def test_only_bad_data_is_exit_3(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run(capsys, "validate", f"recipe={recipe.name}", "data.train.0.path=no/file.jsonl")
    assert code == 3, report
    assert blocks(report)[0]["where"] == "command line: data.train.0.path=no/file.jsonl"


def test_a_missing_column_is_exit_3_and_skipped_on_request(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("rows.jsonl").write_text('{"question": "q", "response": "r"}\n' * 4)
    source = "data.train=[{path: rows.jsonl, format: prompt_response}]"
    code, report = run(capsys, "validate", f"recipe={recipe.name}", source)
    assert code == 3, report
    assert "prompt" in report
    monkeypatch.setattr("vlmforge.commands.validate._check_on_meta", lambda config: [])
    code, report = run(capsys, "validate", f"recipe={recipe.name}", source, "check_data=false")
    assert (code, report) == (0, "")


def test_bad_data_beside_a_bad_config_is_exit_2_with_both(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run(capsys, "validate", f"recipe={recipe.name}", "data.train.0.path=no/file.jsonl", "run.seed=x")
    assert code == 2
    assert len(blocks(report)) == 2


def test_a_good_recipe_is_one_line(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmforge.commands.validate._check_on_meta", lambda config: [])
    assert main(["validate", f"recipe={recipe.name}", "world_size=2", "parallelism=fsdp"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "ok: mine: dp_replicate 1 x dp_shard 2 = 2 ranks, 4 micro-batches of 1 row per rank and step, 10 steps"
    )


def test_micro_batches_cut_by_tokens_have_no_fixed_number(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmforge.commands.validate._check_on_meta", lambda config: [])
    # Any number of rows goes with any number of ranks.
    words = ["parallelism.dp_shard=3", "stage.global_batch_size=7", "stage.max_tokens_per_micro_batch=4096"]
    assert main(["validate", f"recipe={recipe.name}", *words]) == 0
    expected = "= 3 ranks, 7 rows per step in micro-batches of at most 4096 tokens, 10 steps\n"
    assert capsys.readouterr().out.endswith(expected)


def test_epochs_are_counted_in_steps_where_files_tell(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmforge.commands.validate._check_on_meta", lambda config: [])
    words = ["~stage.max_steps", "stage.max_epochs=1", "data.train.0.rows=[0,80]"]
    assert main(["validate", f"recipe={recipe.name}", *words]) == 0
    assert capsys.readouterr().out.endswith(", 10 steps\n")
    assert main(["validate", f"recipe={recipe.name}", *words, "stage.packing=best_fit"]) == 0
    assert capsys.readouterr().out.endswith(", 1 epoch\n")


def test_torchrun_decides_the_number_of_ranks(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    code, report = run(capsys, "validate", f"recipe={recipe.name}")
    assert code == 2
    assert "the number of ranks = 3" in report


@pytest.mark.parametrize(
    "words", [("parallelism.tp=3",), ("model=qwen3_30b_a3b", "parallelism.cp=3", "parallelism.ep=2")]
)
def test_of_a_mesh_that_is_none_only_the_cause_is_told(
    words: tuple[str, ...], recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_words = ("validate", f"recipe={recipe.name}", "world_size=8", "parallelism.dp_shard=-1", *words)
    code, report = run(capsys, *run_words, "stage.global_batch_size=6", "stage.micro_batch_size=4")
    assert code == 2
    assert "must divide the number of ranks = 8" in report
    assert f"where: command line: {next(word for word in words if word.startswith('parallelism'))}" in report
    assert "global_batch_size" not in report
    assert "parallelism.ep" not in report


def test_where_nothing_says_how_many_ranks_there_are_only_that_is_told(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("launch=slurm", "launch.num_nodes=3", "parallelism.dp_shard=-1", "parallelism.tp=2")
    code, report = run(capsys, "validate", f"recipe={recipe.name}", *words)
    assert code == 2
    assert "needs launch.processes_per_node" in report
    assert report.endswith("\n1 error\n")


def test_only_the_first_rank_speaks(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run(capsys, "validate", f"recipe={recipe.name}", "run.seed=x") == (2, "")


def test_debug_shows_the_traceback(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, quiet = run(capsys, "validate", f"recipe={recipe.name}", "run.seed=x")
    code, loud = run(capsys, "validate", f"recipe={recipe.name}", "run.seed=x", "--debug")
    assert code == 2
    assert "Traceback" in loud
    assert "Traceback" not in quiet


HEAVY = ("torch", "transformers", "datasets", "peft")
WATCH = """
import sys
from vlmforge.cli import main
code = main({words!r})
print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


def test_mistakes_lists_and_show_are_answered_without_torch(recipe: Path) -> None:
    calls = [
        (["validate", f"recipe={recipe.name}", "stage.sq_len=3"], 2),
        (["validate", f"recipe={recipe.name}", "data.train.0.path=no/file.jsonl"], 3),
        (["recipes"], 0),
        (["show", f"recipe={recipe.name}", "scale=tiny"], 0),
    ]
    for words, expected in calls:
        started = time.monotonic()
        script = WATCH.format(words=words, heavy=HEAVY)
        # A checkout that is not installed is found too.
        environ = {**os.environ, "PYTHONPATH": str(Path(vlmforge.__file__).parent.parent)}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
        assert done.returncode == expected, done.stderr
        assert done.stderr.strip().splitlines()[-1] == "[]"
        # Usually below two seconds; the machine may be busy.
        assert time.monotonic() - started < 20


def test_composing_makes_no_folder_and_leaves_logging_alone(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    handlers = list(logging.getLogger().handlers)
    main(["show", f"recipe={recipe.name}"])
    assert [path.name for path in Path().iterdir()] == ["mine.yaml"]
    assert logging.getLogger().handlers == handlers
