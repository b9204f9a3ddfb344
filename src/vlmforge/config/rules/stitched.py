"""Rules of a stitched model's shape: its parts are of kinds that exist, and a tile becomes whole tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from vlmforge.config.encode import scalar_text
from vlmforge.config.facts import TilesFacts
from vlmforge.config.plain import is_section, is_whole_number
from vlmforge.config.rules.finding import Finding, Rule, Subject
from vlmforge.errors import nearest, one_of

AT = "model.config"
TOWER = f"{AT}.vision_config"


def check_kinds(subject: Subject) -> Iterator[Finding]:
    """The projector, its norm and those of the tower are of a kind that there is."""
    family = subject.family()
    for path, kinds in family.choices.items() if family is not None else ():
        value: Any = _parts(subject)[0]
        for name in path.split("."):
            value = value.get(name) if is_section(value) else None
        if isinstance(value, str) and value not in kinds:
            near = nearest(value, kinds) or list(kinds)
            what = f"{AT}.{path} = {scalar_text(value)} must be {one_of(list(kinds))}"
            yield Finding((f"{AT}.{path}", f"{AT}.{path.partition('.')[0]}"), what, f"{AT}.{path}={near[0]}")


def check_tower_heads(subject: Subject) -> Iterator[Finding]:
    """The heads of a tower divide its width, where their own is not said."""
    fields, tiles = _parts(subject)
    tower = fields.get("vision_config")
    if tiles is None or not is_section(tower) or tower.get("head_dim") is not None:
        return
    width, heads = tower.get("hidden_size"), tower.get("num_attention_heads")
    if _is_count(width) and _is_count(heads) and width % heads:
        what = f"{TOWER}.num_attention_heads = {heads} must divide hidden_size = {width}"
        fix = f"{TOWER}.hidden_size={max(1, round(width / heads)) * heads}"
        yield Finding((f"{TOWER}.num_attention_heads", f"{TOWER}.hidden_size"), what, fix)


def check_tile(subject: Subject) -> Iterator[Finding]:
    """A tile is patches that fold into whole tokens, with nothing among them that has no place in the fold."""
    fields, tiles = _parts(subject)
    tower, ratio = fields.get("vision_config"), fields.get("downsample_ratio", 0.5)
    if tiles is None or not is_section(tower) or isinstance(ratio, bool) or not isinstance(ratio, int | float):
        return
    fold = round(1 / ratio) if ratio > 0 else 0
    if fold < 1 or abs(1 / ratio - fold) > 1e-6:
        what = f"{AT}.downsample_ratio = {scalar_text(ratio)} must be 1.0, or a whole number's inverse such as 0.5"
        yield Finding((f"{AT}.downsample_ratio",), what, f"{AT}.downsample_ratio=0.5")
        return
    yield from _check_side(tower, tiles, fold)
    if fold > 1 and fields.get("drop_class_tokens") is False and _has_prefix(tower, tiles):
        yield Finding(
            (f"{AT}.drop_class_tokens", f"{AT}.downsample_ratio"),
            f"{AT}.drop_class_tokens = false with downsample_ratio = {scalar_text(ratio)}: a class token has no place "
            f"among patches that are folded {fold} x {fold}",
            f"{AT}.drop_class_tokens=true, or {AT}.downsample_ratio=1.0",
        )


def _check_side(tower: Mapping[str, Any], tiles: TilesFacts, fold: int) -> Iterator[Finding]:
    side, patch = tower.get("image_size"), tower.get("patch_size")
    if not _is_count(side) or not _is_count(patch):
        return
    whole = max(1, round(side / (patch * fold))) * patch * fold
    paths = (f"{TOWER}.image_size", f"{TOWER}.patch_size", f"{AT}.downsample_ratio")
    number = side // patch
    if number < 1 or (tiles.needs_whole_patches and side % patch):
        what = f"{TOWER}.image_size = {side} must be a multiple of patch_size = {patch}"
        yield Finding(paths[:2], what, f"{TOWER}.image_size={whole}")
    elif number % fold:
        what = (
            f"{TOWER}.image_size = {side}: a tile is {number} x {number} patches of {patch} pixels, which do not fold "
            f"{fold} x {fold} into tokens"
        )
        yield Finding(paths, what, f"{TOWER}.image_size={whole}, or {AT}.downsample_ratio=1.0")


def _has_prefix(tower: Mapping[str, Any], tiles: TilesFacts) -> bool:
    """Whether there are tokens before those of the patches; a field that is not said has some by default."""
    prefix = tiles.prefix_tokens
    return prefix > 0 if isinstance(prefix, int) else any(tower.get(name, 1) for name in prefix)


def _parts(subject: Subject) -> tuple[Mapping[str, Any], TilesFacts | None]:
    """A stitched model's fields and its tower's facts; null for other models."""
    shape, family = subject.shape(), subject.family()
    return (shape.fields, family.tiles) if shape is not None and family is not None else ({}, None)


def _is_count(number: object) -> TypeGuard[int]:
    return is_whole_number(number) and number > 0


RULES: tuple[Rule, ...] = (check_kinds, check_tower_heads, check_tile)
