"""Composition: merge order, overrides, folders that rule a shape, and what `scale=tiny` makes."""

import json
from pathlib import Path
from typing import Any

import pytest

from vlmforge.config.check import check
from vlmforge.config.compose import Composed, compose
from vlmforge.config.decode import Decoded, decode
from vlmforge.config.derived import count_gpus, derive_batch, derive_world_size
from vlmforge.config.facts import Facts
from vlmforge.config.schema import Config
from vlmforge.data.formats import FORMATS
from vlmforge.models import FAMILIES

BODY = """# Mine
defaults:
  - /model: smollm2_135m
  - /parallelism: fsdp
  - /data: gsm8k
  - /stage: lora
  - _self_
stage:
  max_steps: 10
"""


@pytest.fixture(autouse=True)
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text(BODY)
    return path


def composed(*overrides: str) -> Composed:
    return compose("mine.yaml", overrides, FAMILIES)


def decoded(*overrides: str) -> tuple[Composed, Decoded]:
    result = composed(*overrides)
    assert not result.problems, result.problems
    read = decode(result.values, result.origins)
    assert not read.problems, read.problems
    return result, read


def problems(*overrides: str) -> list[str]:
    result, read = decoded(*overrides)
    facts = Facts(FAMILIES, FORMATS, ("gsm8k",), None, 0, result.stated_shape)
    return [problem.what for problem in check(read.config, result.origins, facts, read.bad)]


def model_folder(**changes: Any) -> str:
    content = {"model_type": "llama", **FAMILIES["llama"].tiny, "unknown_field": 1, **changes}
    Path("weights").mkdir(exist_ok=True)
    Path("weights/config.json").write_text(json.dumps(content))
    return "weights"


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_any_key_of_the_schema_can_be_set(prefix: str) -> None:
    _, read = decoded(f"{prefix}data.train.0.weight=2", f"{prefix}stage.adapter.path=x")
    assert read.config.data.train[0].weight == 2.0
    assert read.config.stage.adapter is not None
    assert read.config.stage.adapter.path == "x"


def test_a_key_is_reset_to_its_default() -> None:
    _, read = decoded("~stage.optimizer.lr", "~stage.adapter")
    assert read.config.stage.optimizer.lr == Config().stage.optimizer.lr
    assert read.config.stage.adapter is None


def test_a_group_that_the_recipe_does_not_name_can_be_chosen() -> None:
    result, read = decoded("launch=local", "scale=tiny", "parallelism=hsdp")
    assert read.config.parallelism.dp_replicate == 2
    assert result.origins["launch.kind"].endswith("configs/launch/local.yaml:2")


def test_a_mapping_on_the_command_line_is_merged_and_a_list_replaced() -> None:
    result, read = decoded("stage.adapter={rank: 4}", "data.train=[{path: a.jsonl, format: text}]")
    assert read.config.stage.adapter is not None
    assert (read.config.stage.adapter.rank, read.config.stage.adapter.alpha) == (4, 32)
    assert [source.path for source in read.config.data.train] == [("a.jsonl",)]
    assert result.origins["data.train.0.path"].startswith("command line: data.train=")
    assert "data.train.0.rows" not in result.origins


def test_a_reference_follows_the_command_line() -> None:
    _, read = decoded(
        "stage.seq_len=${model.config.max_position_embeddings}", "model.config.max_position_embeddings=99"
    )
    assert read.config.stage.seq_len == 99


def test_a_folder_of_a_later_source_rules_shape_and_family() -> None:
    result, read = decoded(f"model.pretrained={model_folder()}")
    assert read.config.model.family is None
    assert read.config.model.config == {}
    assert result.stated_shape == {}
    assert problems(f"model.pretrained={model_folder()}") == []


def test_overrides_beside_a_folder_stay_and_must_fit_its_weights() -> None:
    folder = model_folder()
    _, read = decoded(f"model.pretrained={folder}", "model.config.attention_dropout=0.1")
    assert read.config.model.config == {"attention_dropout": 0.1}
    (what,) = problems(f"model.pretrained={folder}", "model.config.hidden_size=128")
    assert what == "model.config.hidden_size = 128 does not fit the weights of weights, which have 64"
    assert problems(f"model.pretrained={folder}", "model.config.hidden_size=128", "model.init=random") == []


def test_an_override_of_a_hub_models_shape_is_refused_with_weights() -> None:
    assert problems("model.config.num_hidden_layers=2")[0].startswith("model.config.num_hidden_layers = 2 does not fit")
    assert problems("model.config.num_hidden_layers=2", "model.init=random") == []
    assert problems("model.pretrained=someone/else", "model.config.num_hidden_layers=2") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "has no config.json"), ("{", "is not JSON"), ("[]", "is not a JSON object"), ("{}", "is not set")],
)
def test_a_folder_without_a_usable_config_is_refused(content: str | None, message: str) -> None:
    Path("weights").mkdir()
    if content is not None:
        Path("weights/config.json").write_text(content)
    assert message in " ".join(problems("model.pretrained=weights"))


def test_a_folder_of_an_unknown_model_type_is_refused() -> None:
    (what,) = problems(f"model.pretrained={model_folder(model_type='mamba')}")
    assert what.startswith("model.family = mamba is not a family of this version")


def test_tiny_keeps_the_structure_and_shrinks_the_sizes() -> None:
    result, read = decoded("scale=tiny")
    config = read.config
    assert (config.model.pretrained, config.model.init, config.model.tokenizer) == (None, "random", "builtin:bytes")
    assert config.model.config["hidden_size"] == 64
    assert config.model.config["rope_theta"] == 100000
    assert "head_dim" not in config.model.config
    assert config.data.train[0].path == ("builtin:prompt_response",)
    assert config.data.train[0].rows is None
    assert config.data.train[0].columns == {"prompt": "question", "response": "answer"}
    assert (config.stage.max_steps, config.stage.global_batch_size, config.stage.schedule.warmup_steps) == (3, 4, 1)
    assert config.stage.adapter is not None
    assert (config.stage.adapter.rank, config.stage.adapter.alpha) == (4, 32)
    assert derive_world_size(config, None, 8) == 1
    assert result.origins["stage.max_steps"] == "scale=tiny"


def test_tiny_still_cuts_steps_by_tokens_where_the_recipe_does() -> None:
    Path("mine.yaml").write_text(BODY + "  max_tokens_per_micro_batch: 65536\n")
    _, read = decoded("scale=tiny")
    assert read.config.stage.max_tokens_per_micro_batch == read.config.stage.seq_len == 512
    assert derive_batch(read.config, 1).grad_accum_steps is None
    assert not problems("scale=tiny", "data.validation=[]", "evaluate.tasks=[]")


def test_tiny_prepares_samples_in_one_worker_at_most() -> None:
    Path("mine.yaml").write_text(BODY + "data:\n  num_workers: 8\n")
    assert decoded("scale=tiny")[1].config.data.num_workers == 1
    assert decoded("scale=tiny", "data.num_workers=8")[1].config.data.num_workers == 8
    Path("mine.yaml").write_text(BODY)
    assert decoded("scale=tiny")[1].config.data.num_workers == 0


def test_tiny_gives_way_to_the_command_line_and_keeps_a_mesh_that_it_sets() -> None:
    _, read = decoded("stage.max_steps=7", "scale=tiny", "parallelism.dp_shard=2")
    assert read.config.stage.max_steps == 7
    assert derive_batch(read.config, 2).grad_accum_steps == 2
    _, read = decoded("scale=tiny", "parallelism.recompute=full")
    assert read.config.parallelism.dp_shard == 1
    # Whatever the recipe's own mesh is.
    Path("mine.yaml").write_text(BODY.replace("fsdp", "fsdp_tp8"))
    _, read = decoded("scale=tiny", "parallelism.dp_shard=2")
    assert (read.config.parallelism.dp_shard, read.config.parallelism.tp) == (2, 1)
    _, read = decoded("scale=tiny", "parallelism=fsdp_tp4")
    assert (read.config.parallelism.dp_shard, read.config.parallelism.tp) == (-1, 4)


def test_tiny_takes_the_structure_of_a_folder() -> None:
    Path("mine.yaml").write_text(BODY + f"model:\n  pretrained: {model_folder(model_type='qwen2', rope_theta=7.0)}\n")
    _, read = decoded("scale=tiny")
    assert read.config.model.family == "qwen2"
    assert read.config.model.config["rope_theta"] == 7.0


def test_tiny_keeps_held_out_rows_of_built_in_samples_apart() -> None:
    _, read = decoded("scale=tiny", "data=dates")
    assert read.config.data.train[0].rows == (0, 64)
    assert read.config.data.validation[0].rows == (4000, 4064)


def test_tiny_shrinks_the_length_that_positions_are_scaled_from() -> None:
    _, read = decoded("scale=tiny", "model=llama3p1_8b")
    scaling = read.config.model.config["rope_scaling"]
    assert (scaling["factor"], scaling["original_max_position_embeddings"]) == (8.0, 512)


@pytest.mark.parametrize(
    ("given", "launch", "gpus", "expected"),
    [
        (4, {}, 0, 4),
        (None, {}, 0, 1),
        (None, {}, 8, 8),
        (None, {"processes_per_node": 2}, 8, 2),
        (None, {"num_nodes": 2}, 8, 16),
        (None, {"num_nodes": 2}, 0, 2),
        (None, {"num_nodes": 2, "processes_per_node": 4}, 8, 8),
    ],
)
def test_the_number_of_ranks(given: int | None, launch: dict[str, int], gpus: int, expected: int) -> None:
    _, read = decoded(*(f"launch.{name}={value}" for name, value in launch.items()))
    assert derive_world_size(read.config, given, gpus) == expected


def test_no_gpu_is_counted_where_the_recipe_asks_for_a_cpu() -> None:
    _, read = decoded("launch.device=cpu")
    assert count_gpus(read.config, {"CUDA_VISIBLE_DEVICES": "0,1"}) == 0
