"""A case: one way to train a small model for a few steps, as a recipe that passes the gates of every user's recipe."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from vlmforge.commands.configuring import LoadedRecipe, load_config
from vlmforge.commands.request import Request
from vlmforge.config.check import check
from vlmforge.config.derived import Axes
from vlmforge.config.facts import Facts
from vlmforge.config.schema import Config
from vlmforge.data.formats import FORMATS
from vlmforge.errors import ConfigError
from vlmforge.models import FAMILIES
from vlmforge.models.family import Family

NUM_STEPS = 5
GLOBAL_BATCH_SIZE = 4
HOLES = "holes.jsonl"


@dataclass(frozen=True)
class Case:
    """One way to train; `mutation` names a mechanism that is taken out, to show that the comparison notices.

    `max_tokens` in the place of `micro_batch_size` cuts the rows of a step by their tokens, so that micro-batches and
    ranks have different numbers of rows. `trainable` is a group of `stage.trainable`; empty: all. `weighs`: turns
    count by the root of their length, and a group that there is beside others has a learning rate of its own.
    """

    family: str = "llama"
    is_lora: bool = False
    packing: str = "none"
    micro_batch_size: int = 1
    max_tokens: int | None = None
    attention: str = "varlen"
    recompute: str = "none"
    trainable: str = ""
    has_holes: bool = False
    weighs: bool = False
    mutation: str = ""
    num_steps: int = NUM_STEPS

    @property
    def general(self) -> Family:
        """The family; of a stitched model, whose parts follow its name, what all combinations share."""
        return FAMILIES[self.family.partition("-")[0]]

    @property
    def name(self) -> str:
        kind = "lora" if self.is_lora else "full"
        cut = f"mbs{self.micro_batch_size}" if self.max_tokens is None else f"max{self.max_tokens}"
        special = (
            self.attention if self.attention != "varlen" else "",
            f"recompute_{self.recompute}" if self.recompute != "none" else "",
            self.trainable,
            "holes" if self.has_holes else "",
            "weighed" if self.weighs else "",
            self.mutation,
        )
        return "-".join([self.family, kind, self.packing, cut, *filter(None, special)])

    @property
    def reference(self) -> Case:
        """The case whose plain loop this one is compared with: how the batch is cut is none of its business."""
        special = {"trainable": self.trainable, "has_holes": self.has_holes, "weighs": self.weighs}
        return Case(self.family, self.is_lora, self.packing, **special)


def configure(case: Case, folder: Path, axes: Axes | None = None) -> Config:
    """The case as a recipe on a mesh; it is composed once in a process and in those that are forked from it.

    Raises:
        ConfigError: the mesh is refused for it.
    """
    loaded = load_case(case, folder)
    mesh = replace(loaded.config.parallelism, **asdict(axes or Axes()))
    config = replace(loaded.config, parallelism=mesh)
    problems = check(config, loaded.origins, Facts(FAMILIES, FORMATS, (), None, 0, {}))
    if problems:
        raise ConfigError(problems)
    return config


@cache
def load_case(case: Case, folder: Path) -> LoadedRecipe:
    """The case on one process, through gates 1 and 2."""
    overrides = [
        f"model.pretrained={folder / case.family}",
        f"model.attention={case.attention}",
        f"parallelism.recompute={case.recompute}",
        f"stage.packing={case.packing}",
        f"stage.global_batch_size={GLOBAL_BATCH_SIZE}",
        f"stage.max_steps={case.num_steps}",
        *_cut(case),
        *_rows(case, folder),
        *_trained(case, folder),
    ]
    recipe = Path(__file__).parent / "parity.yaml"
    return load_config(Request("train", {"recipe": [str(recipe)]}, overrides), environ={})


def _cut(case: Case) -> list[str]:
    window = ["stage.packing_window=12"] if case.packing != "none" else []
    if case.max_tokens is not None:
        return [*window, f"stage.max_tokens_per_micro_batch={case.max_tokens}"]
    return [*window, f"stage.micro_batch_size={case.micro_batch_size}"]


def _rows(case: Case, folder: Path) -> list[str]:
    if case.has_holes:
        source = f"data.train=[{{path: {folder / HOLES}, format: messages}}]"
        return [source, "data.shuffle=false", "data.on_bad_sample=skip", "data.max_bad_ratio=1"]
    return picture_rows(case.general)


def picture_rows(family: Family) -> list[str]:
    """Rows with pictures of one to a few tokens, where a family sees; every fourth row has none."""
    if family.vision is None:
        return []
    budget = {"min_pixels": 256, "max_pixels": 1024, "max_tiles": 2}
    keys = [f"model.image.{name}={value}" for name, value in budget.items() if name in family.image_keys]
    return [*keys, "data.train=[{path: 'builtin:image_messages', format: messages}]"]


def _trained(case: Case, folder: Path) -> list[str]:
    if case.is_lora:
        adapter = f"stage.adapter.path={folder / case.family}-adapter"
        return ["stage.kind=lora", "stage.adapter.rank=4", "stage.adapter.alpha=8", adapter]
    trainable = [f"stage.trainable=[{case.trainable}]"] if case.trainable else []
    return [*trainable, *_weighed(case)]


def _weighed(case: Case) -> list[str]:
    if not case.weighs:
        return []
    has_groups = FAMILIES[case.family].vision is not None
    return ["stage.loss.weighting=sqrt_turns", *["stage.optimizer.group_lr.projector=3e-5"] * has_groups]


def write_holes(folder: Path) -> None:
    """A file of which steps use 1, 4, 2, 3 and 1 samples: the rest has no answer, so nothing in it is trained."""
    rows: list[list[dict[str, str]]] = []
    for number, num_good in enumerate((1, 4, 2, 3, 1)):
        for place in range(GLOBAL_BATCH_SIZE):
            question = {"role": "user", "content": f"question {number} {place}"}
            answer = {"role": "assistant", "content": f"answer {place} " * (1 + place)}
            # The good ones stand at the end of a step's rows.
            rows.append([question, answer] if GLOBAL_BATCH_SIZE - place <= num_good else [question])
    (folder / HOLES).write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
