"""Rules of `model`: where it, its tokenizer and its template come from, and what may be asked of its family."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vlmforge.config.chat_templates import CHAT_TEMPLATES, NO_TEMPLATE
from vlmforge.config.encode import scalar_text
from vlmforge.config.pretrained import derive_shape, is_folder
from vlmforge.config.rules.finding import Finding, Rule, Subject
from vlmforge.config.sources import walk_sources
from vlmforge.errors import nearest, nearest_folder, one_of

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# The model_type of folders in layouts of their own, and what brings one into ours.
PUBLISHED = {
    "NVLM_D": "vlmforge convert model=nvlm_d_72b checkpoint=FOLDER output=stitched/nvlm_d_72b",
    "Llama_Nemotron_Nano_VL": "vlmforge convert model=nemotron_nano_vl_8b checkpoint=FOLDER output=stitched/nemotron",
}
BUILTIN_TOKENIZERS = ("builtin:bytes",)


def check_source(subject: Subject) -> Iterator[Finding]:
    """A model comes from weights, or from a shape, random numbers and a tokenizer."""
    model = subject.config.model
    if model.init == "pretrained" and model.pretrained is None:
        yield Finding(
            ("model.pretrained", "model.init"),
            "model.pretrained is not set, and model.init = pretrained takes the weights from there",
            "model=smollm2_135m, or model.pretrained=FOLDER, or model.init=random with model.config",
        )
    if model.tokenizer is None and model.pretrained is None:
        yield Finding(
            ("model.tokenizer", "model.pretrained"),
            "model.tokenizer is not set, and there is no model.pretrained to take it from",
            "model.tokenizer=builtin:bytes",
        )


def check_init(subject: Subject) -> Iterator[Finding]:
    """Weights that the command line names are loaded, not passed over for random ones."""
    model, origins = subject.config.model, subject.origins
    said = {name: origins.where(f"model.{name}").startswith("command line") for name in ("pretrained", "init")}
    if model.pretrained is not None and model.init == "random" and said["pretrained"] and not said["init"]:
        yield Finding(
            ("model.pretrained", "model.init"),
            f"model.pretrained = {model.pretrained} would not be loaded: model.init = random here",
            "add model.init=pretrained, or say model.init=random too to take only its tokenizer and shape",
        )


def check_pretrained(subject: Subject) -> Iterator[Finding]:
    """`pretrained` is a folder with a config.json, or looks like a hub id; a hub id is not looked up."""
    pretrained = subject.config.model.pretrained
    if pretrained is None:
        return
    if is_folder(pretrained):
        try:
            derive_shape(subject.config.model, subject.facts.families)
        except ValueError as error:
            yield Finding(
                ("model.pretrained",),
                f"model.pretrained = {pretrained}: {error}",
                "give a folder that save_pretrained wrote, such as the export/ of a run",
            )
    elif not HUB_ID.fullmatch(pretrained):
        yield Finding(
            ("model.pretrained",),
            f"model.pretrained = {scalar_text(pretrained)}: there is no such folder, and it is no hub id",
            _near_folder(pretrained),
        )


def _near_folder(path: str) -> str:
    near = nearest_folder(path)
    if near is not None:
        return f"model.pretrained={near}"
    return "give an existing folder, or a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct"


def check_family(subject: Subject) -> Iterator[Finding]:
    """The family is one of ours, and the one that the folder's config.json names."""
    shape = subject.shape()
    families = subject.facts.families
    if shape is None:
        return
    known = one_of(sorted(families))
    if shape.family is None:
        yield Finding(
            ("model.family", "model.pretrained"),
            "model.family is not set, and nothing else names it",
            f"model.family={next(iter(sorted(families)))}, or choose a model file: model=smollm2_135m",
        )
    elif shape.family not in families:
        near = nearest(shape.family, families)
        yield Finding(
            ("model.family" if subject.config.model.family else "model.pretrained",),
            f"model.family = {shape.family} is not a family of this version; it has {known}",
            PUBLISHED.get(shape.family, f"model.family={near[0] if near else sorted(families)[0]}"),
        )
    else:
        own = shape.reference.get("model_type")
        expected = families[shape.family].model_type
        if own is not None and own != expected:
            yield Finding(
                ("model.family", "model.pretrained"),
                f"model.family = {shape.family} but {subject.config.model.pretrained} is of model_type {own}",
                "remove model.family: the folder names it",
            )


def check_attention(subject: Subject) -> Iterator[Finding]:
    """Attention sample by sample drops nothing out."""
    shape = subject.shape()
    dropout = shape.fields.get("attention_dropout") if shape is not None else None
    if subject.config.model.attention == "varlen" and isinstance(dropout, int | float) and dropout > 0:
        yield Finding(
            ("model.config.attention_dropout", "model.attention"),
            f"model.config.attention_dropout = {scalar_text(dropout)} is not available with model.attention = varlen",
            "model.config.attention_dropout=0.0, or model.attention=sdpa",
        )


def check_revision(subject: Subject) -> Iterator[Finding]:
    """A revision is one of a hub id."""
    model = subject.config.model
    if model.revision is None or (model.pretrained is not None and not is_folder(model.pretrained)):
        return
    source = (
        f"model.pretrained = {model.pretrained} is a folder" if model.pretrained else "there is no model.pretrained"
    )
    yield Finding(
        ("model.revision", "model.pretrained"),
        f"model.revision = {scalar_text(model.revision)} has no effect: {source}, and a revision is one of a hub id",
        "~model.revision, or a hub id in model.pretrained",
    )


def check_kernels(subject: Subject) -> Iterator[Finding]:
    """Liger kernels exist for some families, and for CUDA."""
    config = subject.config
    if config.model.kernels != "liger":
        return
    family, families = subject.family(), subject.facts.families
    if family is not None and not family.has_liger:
        known = sorted(name for name, other in families.items() if other.has_liger)
        yield Finding(
            ("model.kernels", "model.family"),
            f"model.kernels = liger is for the families {one_of(known)}, not for {family.name}",
            "model.kernels=torch",
        )
    if config.launch.device == "cpu":
        yield Finding(
            ("model.kernels", "launch.device"),
            "model.kernels = liger runs on CUDA only, and launch.device = cpu",
            "model.kernels=torch, or launch.device=cuda",
        )


def check_image(subject: Subject) -> Iterator[Finding]:
    """Pictures are counted in pixels or in tiles, as the family sees them, and the least is not above the most."""
    image, family = subject.config.model.image, subject.family()
    if family is None:
        return
    for name, value in vars(image).items():
        if value is not None and name not in ("num_frames", *family.image_keys):
            path = f"model.image.{name}"
            known = one_of([f"model.image.{key}" for key in family.image_keys]) if family.image_keys else "no images"
            yield Finding(
                (path, "model.family"),
                f"{path} = {scalar_text(value)} has no effect on family {family.name}, which takes {known}",
                f"remove {path}",
            )
    if subject.is_set("model.image.num_frames") and not family.image_keys:
        yield Finding(
            ("model.image.num_frames", "model.family"),
            f"model.image.num_frames = {image.num_frames} has no effect on family {family.name}, which takes no images",
            "remove model.image.num_frames",
        )
    if subject.config.data.shrink_images and not family.image_keys:
        yield Finding(
            ("data.shrink_images", "model.family"),
            f"data.shrink_images = true has no effect on family {family.name}, which takes no images",
            "data.shrink_images=false",
        )
    least, most = image.min_pixels, image.max_pixels
    if least is not None and most is not None and least > most:
        yield Finding(
            ("model.image.min_pixels", "model.image.max_pixels"),
            f"model.image.min_pixels = {least} must be at most max_pixels = {most}",
            f"model.image.min_pixels={most}",
        )
    if image.tile_tags not in (None, "none") and image.thumbnail is False:
        yield Finding(
            ("model.image.tile_tags", "model.image.thumbnail"),
            f"model.image.tile_tags = {image.tile_tags} with model.image.thumbnail = false: the last tag is that of "
            "the thumbnail",
            "model.image.thumbnail=true, or model.image.tile_tags=none",
        )
    if image.tokenization == "hf" and image.tile_tags in (None, "none"):
        yield Finding(
            ("model.image.tokenization", "model.image.tile_tags"),
            "model.image.tokenization = hf has no effect without model.image.tile_tags",
            "~model.image.tokenization, or model.image.tile_tags=default",
        )
    if image.special_tokens == ():
        yield Finding(
            ("model.image.special_tokens",),
            "model.image.special_tokens is empty, and its first token stands for pictures",
            "'model.image.special_tokens=[\"<image>\"]'",
        )


def check_tokenizer(subject: Subject) -> Iterator[Finding]:
    """A tokenizer is built in, a folder or what looks like a hub id, and a chat template is a file."""
    model = subject.config.model
    name = model.tokenizer
    if name is not None and not name.startswith("builtin:") and not is_folder(name) and not HUB_ID.fullmatch(name):
        yield Finding(
            ("model.tokenizer",),
            f"model.tokenizer = {scalar_text(name)}: there is no such folder, and it is no hub id",
            f"give an existing folder, a hub id, or model.tokenizer={BUILTIN_TOKENIZERS[0]}",
        )
    if model.tokenizer and model.tokenizer.startswith("builtin:") and model.tokenizer not in BUILTIN_TOKENIZERS:
        yield Finding(
            ("model.tokenizer",),
            f"model.tokenizer = {model.tokenizer}: the built-in tokenizer is {one_of(BUILTIN_TOKENIZERS)}",
            f"model.tokenizer={BUILTIN_TOKENIZERS[0]}",
        )
    template = model.chat_template
    if template is None or template == NO_TEMPLATE or template in CHAT_TEMPLATES:
        return
    if template.startswith("builtin:") or not Path(template).is_file():
        near = nearest(template, (*CHAT_TEMPLATES, NO_TEMPLATE))
        yield Finding(
            ("model.chat_template",),
            f"model.chat_template = {scalar_text(template)}: there is no such file",
            f"give the path of a Jinja file, or model.chat_template={one_of(near or list(CHAT_TEMPLATES))}",
        )


def check_template(subject: Subject) -> Iterator[Finding]:
    """The built-in tokenizer has no chat template of its own, and conversations need one."""
    model = subject.config.model
    if model.tokenizer not in BUILTIN_TOKENIZERS or model.chat_template is not None:
        return
    for at, source in walk_sources(subject.config.data.train, "data.train"):
        if source.format == "messages":
            yield Finding(
                ("model.chat_template", f"{at}.format"),
                f"model.chat_template is not set, and format messages needs one: {model.tokenizer} has none",
                "model.chat_template=builtin:chatml",
            )
            return


RULES: tuple[Rule, ...] = (
    check_source,
    check_init,
    check_pretrained,
    check_family,
    check_attention,
    check_revision,
    check_kernels,
    check_image,
    check_tokenizer,
    check_template,
)
