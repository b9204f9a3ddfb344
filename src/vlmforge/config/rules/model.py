"""Rules of `model`: where it comes from, whether its shape is one, and whether its weights have that shape."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from vlmforge.config.chat_templates import CHAT_TEMPLATES
from vlmforge.config.encode import scalar_text
from vlmforge.config.facts import FamilyFacts
from vlmforge.config.plain import is_section, is_whole_number
from vlmforge.config.pretrained import Shape, derive_shape, is_folder
from vlmforge.config.rules.finding import Finding, Rule, Subject
from vlmforge.config.sources import walk_sources
from vlmforge.errors import nearest, one_of

# Fields that decide the shape or the number of tensors; weights have theirs already.
SHAPE_FIELDS = frozenset(
    {
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "attention_bias",
        "attention_out_bias",
        "mlp_bias",
        "intermediate_size_mlp",
        "moe_intermediate_size",
        "num_experts",
        "num_local_experts",
        "decoder_sparse_step",
        "mlp_only_layers",
        "moe_layers",
        "interleave_moe_layer_step",
        "tie_word_embeddings",
        "depth",
        "num_heads",
        "patch_size",
        "spatial_merge_size",
        "temporal_patch_size",
        "out_hidden_size",
        "num_position_embeddings",
        "image_size",
        "downsample_ratio",
    }
)
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
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
    """A folder beside the one that was meant."""
    parent = Path(path).parent
    names = [entry.name for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
    near = nearest(Path(path).name, names)
    if near:
        return f"model.pretrained={parent / near[0]}"
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
            f"model.family={near[0] if near else sorted(families)[0]}",
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


def check_fields(subject: Subject) -> Iterator[Finding]:
    """Every field of `model.config` is one of the family's, of its type, and none is missing."""
    model = subject.config.model
    shape = subject.shape()
    if shape is None or shape.family is None or shape.family not in subject.facts.families:
        return
    family = subject.facts.families[shape.family]
    yield from _check_level(family.name, "model.config", model.config, family.fields, family.tiny)
    for section, fields in family.sections.items():
        values = model.config.get(section)
        if is_section(values):
            where = f"{family.name}'s {section}"
            yield from _check_level(where, f"model.config.{section}", values, fields, family.tiny[section])
    yield from _check_required(shape, family, is_known=is_folder(model.pretrained))


def _check_level(
    owner: str,
    at: str,
    values: Mapping[str, Any],
    fields: Mapping[str, tuple[type, ...]],
    tiny: Mapping[str, Any],
) -> Iterator[Finding]:
    """The fields of one section."""
    for name, value in values.items():
        path = f"{at}.{name}"
        if name not in fields:
            near = nearest(name, fields)
            yield Finding(
                (path,),
                f"{path} = {scalar_text(value)}: {owner} has no such field",
                f"use {one_of([f'{at}.{match}' for match in near])}" if near else f"remove {path}",
            )
        elif not _fits(value, fields[name]):
            yield Finding(
                (path,),
                f"{path} = {scalar_text(value)} must be {_type_names(fields[name])}",
                f"{path}={scalar_text(_example(tiny, name, fields[name]))}",
            )


def _check_required(shape: Shape, family: FamilyFacts, *, is_known: bool) -> Iterator[Finding]:
    """What the shape cannot do without is there, and no count is below 1."""
    tiny = family.tiny.get(family.text_section, family.tiny)
    for section in family.sections:
        if section not in shape.fields and not is_known:
            path = f"model.config.{section}"
            yield Finding(
                (path, "model.pretrained"),
                f"{path} is not set, and the shape of a {family.name} model needs it",
                "choose a model file: model=qwen3_vl_2b",
            )
    for name in family.required:
        path, value = f"{shape.text_path}.{name}", shape.fields.get(name)
        if name not in shape.fields and not is_known:
            yield Finding(
                (path, "model.pretrained"),
                f"{path} is not set, and the shape of a {family.name} model needs it",
                f"{path}={scalar_text(tiny.get(name, 1))}, or choose a model file: model=smollm2_135m",
            )
        elif is_whole_number(value) and value < 1:
            yield Finding((path,), f"{path} = {value} must be at least 1", f"{path}={scalar_text(tiny.get(name, 1))}")


def _fits(value: object, types: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, types)


def _type_names(types: tuple[type, ...]) -> str:
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        dict: "a mapping",
        list: "a list",
        tuple: "a list",
        type(None): "null",
    }
    names = dict.fromkeys(words[item] for item in types if not (item is int and float in types))
    return one_of(list(names))


def _example(tiny: Mapping[str, Any], name: str, types: tuple[type, ...]) -> Any:
    plain: Mapping[type, Any] = {int: 1, float: 1.0, bool: False, str: "silu", dict: None, list: None}
    return tiny[name] if name in tiny else plain.get(types[0])


def check_shape_of_weights(subject: Subject) -> Iterator[Finding]:
    """Weights keep their shape: a field that changes a tensor's is refused while weights are loaded."""
    model = subject.config.model
    shape = subject.shape()
    if shape is None or model.init != "pretrained" or model.pretrained is None:
        return
    for path, value, own in _both(model.config, shape.reference, "model.config"):
        if path.rpartition(".")[2] in SHAPE_FIELDS and own != value and type(own) is type(value):
            yield Finding(
                (path,),
                f"{path} = {scalar_text(value)} does not fit the weights of {model.pretrained}, which have "
                f"{scalar_text(own)}",
                f"remove {path}, or train from random weights: model.init=random",
            )


def _both(own: Mapping[str, Any], reference: Mapping[str, Any], at: str) -> Iterator[tuple[str, Any, Any]]:
    """Path, value and reference of every field that both have, those of sections too."""
    for name, value in own.items():
        other = reference.get(name)
        if is_section(value) and is_section(other):
            yield from _both(value, other, f"{at}.{name}")
        else:
            yield f"{at}.{name}", value, other


def check_heads(subject: Subject) -> Iterator[Finding]:
    """Attention heads divide the hidden size, key-value heads divide the heads."""
    shape = subject.shape()
    if shape is None:
        return
    at = shape.text_path
    hidden, heads, groups = (
        shape.fields.get(name) for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")
    )
    family = subject.facts.families.get(shape.family or "")
    # A family whose head_dim cannot be null has a default for it.
    is_free = family is not None and type(None) not in family.text_fields.get("head_dim", (type(None),))
    is_free = is_free or shape.fields.get("head_dim") is not None
    if _is_count(hidden) and _is_count(heads) and hidden % heads and not is_free:
        yield Finding(
            (f"{at}.num_attention_heads", f"{at}.hidden_size"),
            f"{at}.num_attention_heads = {heads} must divide hidden_size = {hidden}, or head_dim must be set",
            f"{at}.hidden_size={max(1, round(hidden / heads)) * heads}",
        )
    if _is_count(heads) and _is_count(groups) and heads % groups:
        works = [str(number) for number in range(1, heads + 1) if heads % number == 0]
        yield Finding(
            (f"{at}.num_key_value_heads", f"{at}.num_attention_heads"),
            f"{at}.num_key_value_heads = {groups} must divide num_attention_heads = {heads}",
            f"{at}.num_key_value_heads={nearest_number(groups, works)}, one of {', '.join(works)}",
        )


def _is_count(number: object) -> TypeGuard[int]:
    return is_whole_number(number) and number > 0


def nearest_number(number: int, choices: list[str]) -> str:
    """The choice closest to a number."""
    return min(choices, key=lambda choice: abs(int(choice) - number))


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
    shape, families = subject.shape(), subject.facts.families
    family = families.get(shape.family or "") if shape is not None else None
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
    image, shape = subject.config.model.image, subject.shape()
    family = subject.facts.families.get(shape.family or "") if shape is not None else None
    if family is None:
        return
    for name in ("min_pixels", "max_pixels", "max_tiles"):
        value = getattr(image, name)
        if value is not None and name not in family.image_keys:
            path = f"model.image.{name}"
            known = one_of([f"model.image.{key}" for key in family.image_keys]) if family.image_keys else "no images"
            yield Finding(
                (path, "model.family"),
                f"{path} = {value} has no effect on family {family.name}, which takes {known}",
                f"remove {path}",
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
    if template is None or template in CHAT_TEMPLATES:
        return
    if template.startswith("builtin:") or not Path(template).is_file():
        near = nearest(template, CHAT_TEMPLATES)
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
    check_fields,
    check_shape_of_weights,
    check_heads,
    check_attention,
    check_revision,
    check_kernels,
    check_image,
    check_tokenizer,
    check_template,
)
