"""Blend files of Megatron-Energon, written as its own documentation and S1's and S2's examples write them."""

from fractions import Fraction

import pytest
import yaml

from vlmforge.config.schema import DataConfig, SourceConfig
from vlmforge.data.leaves import Group
from vlmforge.data.tree import BlendBuilder, build_blend
from vlmforge.errors import DataError

V2 = {"__module__": "megatron.energon", "__class__": "MetadatasetV2"}


@pytest.fixture
def write(tmp_path):
    def write(name, splits, **head):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({**(head or V2), "splits": splits}))
        return str(path)

    return write


def leaves_of(path, blend="train", **keys):
    data = DataConfig(**{blend: (SourceConfig(path=(path,), **keys),)})
    return list(build_blend(data, blend).leaves())


def weights_of(group):
    return [
        (part.unit, part.terms.weight, weights_of(part)) if isinstance(part, Group) else part.terms.weight
        for part in group.parts
    ]


def problems_of(path):
    builder = BlendBuilder()
    builder.build(DataConfig(train=(SourceConfig(path=(path,)),)), "train")
    return [(problem.what, problem.where) for problem in builder.problems]


def test_version_1_is_read_with_its_weights_and_marks(write, tmp_path):
    entries = [
        {"weight": 0.579, "path": "/data/laion", "subflavors": {"augmentation": False}},
        {"weight": 0.02, "path": "coco", "subflavors": {"augmentation": False}, "split_part": "val"},
    ]
    path = write(
        "blends/pretrain.yaml",
        {"train": {"datasets": entries}, "val": {"datasets": [{"weight": 1, "path": "../coco"}]}},
        __module__="megatron.energon",
        __class__="Metadataset",
    )
    laion, coco = leaves_of(path)
    assert (laion.source.path, coco.source.path) == (("/data/laion",), (str(tmp_path / "blends/coco"),))
    assert (laion.source.split, coco.source.split) == ("train", "val")
    assert laion.source.subflavors == {"augmentation": False}
    assert (laion.terms.weight, coco.terms.weight) == (Fraction("0.579"), Fraction("0.02"))
    (validation,) = leaves_of(path, "validation")
    assert (validation.source.path, validation.source.split) == ((str(tmp_path / "coco"),), "val")


def test_a_file_without_a_class_is_version_1(write):
    path = write("a.yaml", {"train": {"datasets": [{"path": "x", "subflavor": "old"}]}}, __module__="megatron.energon")
    assert leaves_of(path)[0].source.subflavors == {"__subflavor__": "old"}


def test_nested_blends_keep_their_own_weights_and_units(write):
    epochized = {"blend_epochized": [{"repetitions": 5, "path": "coco"}, {"path": "coyo"}]}
    path = write("a.yaml", {"train": {"blend": [{"weight": 3, "path": "x"}, {"weight": 1, **epochized}]}})
    group = build_blend(DataConfig(train=(SourceConfig(path=(path,)),)), "train")
    assert weights_of(group) == [("samples", None, [3, ("epochs", 1, [5, 1])])]


def test_a_path_to_another_blend_is_followed_and_outer_marks_win(write, tmp_path):
    write("inner/b.yaml", {"train": {"blend": [{"path": "x", "subflavors": {"a": 1, "b": 1}}, {"path": "y"}]}})
    path = write("a.yaml", {"train": {"path": "inner/b.yaml", "subflavors": {"a": 2}}})
    x, y = leaves_of(path)
    assert x.source.path == (str(tmp_path / "inner/x"),)
    assert (x.source.subflavors, y.source.subflavors) == ({"a": 2, "b": 1}, {"a": 2})
    assert x.where is not None
    assert x.where.startswith(f"{tmp_path}/inner/b.yaml:")
    assert leaves_of(path, subflavors={"b": 3})[0].source.subflavors == {"a": 2, "b": 3}


def test_ranges_compose_from_the_inside(write):
    # The example of energon's own tests: [10, 30] of 55 rows, of that 20% to 80%, of that 25% to 75%, then the half.
    inner = {"path": "ds", "subset": {"range": [10, 30]}}
    blend = {"subset": {"range": ["20%", "80%"]}, "blend_epochized": [inner, {"path": "ds", "repetitions": 2}]}
    write("inner.yaml", {"train": blend})
    entry = {"path": "inner.yaml", "repetitions": 2, "subset": {"range": ["25%", "75%"]}}
    path = write("outer.yaml", {"train": {"subset": {"range": ["0%", "50%"]}, "blend_epochized": [entry]}})
    start, stop = 0, 55
    for subset in leaves_of(path)[0].subsets:
        start, stop = subset.narrow(start, stop)
    assert (start, stop) == (17, 20)


def test_a_range_may_go_to_the_end(write):
    path = write("a.yaml", {"train": {"path": "ds", "subset": {"range": [100, "end"]}}})
    assert leaves_of(path)[0].subsets[0].narrow(0, 130) == (100, 130)


def test_an_entry_of_weight_0_is_left_out(write):
    path = write("a.yaml", {"train": {"blend": [{"path": "x", "weight": 0}, {"path": "y"}]}})
    assert [leaf.source.path[0].rpartition("/")[2] for leaf in leaves_of(path)] == ["y"]


WRONG = [
    ({"train": {"blend": [{"path": "x", "wieght": 1}]}}, "splits.train.blend.0.wieght is no key of an entry", 7),
    ({"train": {"join": [{"path": "x"}]}}, "splits.train.join cannot be followed", 5),
    ({"train": {"path": "x", "subset": {"range": ["0%", 5]}}}, "must be a range in percent or in rows", 6),
    ({"train": {"blend": [{"path": "x"}], "subset": {"range": [0, 5]}}}, "must be in percent", 7),
    ({"train": {"blend": [{"path": "x", "repetitions": 2}]}}, "this blend counts weight", 7),
    ({"train": {"blend": [{"path": "x", "weight": -1}]}}, "must be a number of at least 0", 7),
    ({"train": {"blend": [{"path": "x", "weight": "much"}]}}, "must be a number of at least 0", 7),
    ({"train": {"path": "a.yaml"}}, "a blend that holds itself", 5),
    ({"train": {"path": "x", "blend": []}}, "has path and blend", 4),
    ({"val": {"path": "x"}}, "has no split train, only val", 3),
]


@pytest.mark.parametrize(("splits", "what", "line"), WRONG)
def test_what_cannot_be_followed_is_told_with_its_line(write, splits, what, line):
    path = write("a.yaml", splits)
    found = problems_of(path)
    assert any(what in told and where.endswith(f"a.yaml:{line}") for told, where in found), found


def test_no_tag_can_name_code(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("splits:\n  train: !!python/object/apply:os.system ['touch owned']\n")
    assert any("values are plain data" in what for what, _ in problems_of(str(path)))
    path.write_text("__class__: os.system\nsplits: {train: {path: x}}\n")
    assert any("must be Metadataset or MetadatasetV2" in what for what, _ in problems_of(str(path)))


def test_a_blend_that_cannot_be_read_is_an_error_where_data_is_needed(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        leaves_of(str(tmp_path / "none.yaml"))
