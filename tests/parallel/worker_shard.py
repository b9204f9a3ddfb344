"""One rank of the tests of sharding: how many numbers of each group of a model lie here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.numerics.case import Case, configure
from vlmforge.config.derived import Axes
from vlmforge.models import FAMILIES
from vlmforge.models.shape import find_family
from vlmforge.parallel.mesh import open_world
from vlmforge.parallel.tensor import local_tensor
from vlmforge.train.session import build_root

FAMILY = "stitched-radio-llama"


def main(folder: Path) -> None:
    axes = Axes(tp=2)
    config = configure(Case(FAMILY), folder, axes)
    with open_world(axes, "cpu", 60.0) as world:
        model = build_root(config, world).model
        family = find_family(model.config)
        assert family.groups == FAMILIES["stitched"].groups
        sizes: dict[str, list[int]] = {}
        for name, parameter in model.named_parameters():
            here, full = sizes.setdefault(family.group_of(name), [0, 0])
            sizes[family.group_of(name)] = [here + local_tensor(parameter).numel(), full + parameter.numel()]
        (folder / f"sizes-{world.rank}.json").write_text(json.dumps(sizes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
