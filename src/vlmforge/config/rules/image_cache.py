"""Rules of `model.cache_image_embeds`: only what never changes is kept."""

from __future__ import annotations

from collections.abc import Iterator

from vlmforge.config.encode import scalar_text
from vlmforge.config.rules.finding import Finding, Rule, Subject

PATH = "model.cache_image_embeds"


def check_image_cache(subject: Subject) -> Iterator[Finding]:
    """Features are kept of a stitched model's tower that is frozen, and in evaluation mode."""
    model, stage, family = subject.config.model, subject.config.stage, subject.family()
    if not model.cache_image_embeds:
        for name in ("image_cache_gib", "image_cache_dir"):
            if subject.is_set(f"model.{name}"):
                said = f"model.{name} = {scalar_text(getattr(model, name))}"
                fix = f"{PATH}=true, or ~model.{name}"
                yield Finding((f"model.{name}", PATH), f"{said} has no effect with {PATH} = false", fix)
        return
    if stage.kind == "generate":
        yield Finding((PATH, "stage.kind"), f"{PATH} = true has no effect: generate sees a picture once", f"~{PATH}")
    if family is None:
        return
    if not family.parts:
        what = f"{PATH} = true: only stitched models have it, and this is {family.name}"
        yield Finding((PATH, "model.family"), what, f"~{PATH}")
    elif stage.adapter is None and (stage.trainable is None or "vision_tower" in stage.trainable):
        trained = "null, which trains everything" if stage.trainable is None else scalar_text(stage.trainable)
        yield Finding(
            (PATH, "stage.trainable"),
            f"{PATH} = true needs a frozen vision tower, and stage.trainable = {trained}",
            f"~{PATH}, or 'stage.trainable=[projector]'",
        )
    if not stage.frozen_in_eval:
        yield Finding(
            (PATH, "stage.frozen_in_eval"),
            f"{PATH} = true needs stage.frozen_in_eval = true: a tower in training mode sees each time anew",
            f"~{PATH}, or ~stage.frozen_in_eval",
        )


RULES: tuple[Rule, ...] = (check_image_cache,)
