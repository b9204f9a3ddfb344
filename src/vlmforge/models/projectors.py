"""The projectors of Megatron's multimodal models, by the language model that they were trained with.

Two linear layers with a GELU between, behind a norm or none. `projector_type` in a stitched model's config fills in
what the config does not say itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Norm = Literal["layer_norm", "rms_norm", "none"]
NORMS: tuple[str, ...] = get_args(Norm)


@dataclass(frozen=True)
class ProjectorType:
    """What a projector is where the config does not say otherwise.

    Attributes:
        norm: of what enters; "inherit": as in the language model, an RMS norm with its eps.
        hidden_size: between the two linear layers; None: the language model's width.
        bias: of both linear layers.
        eps: of the norm; None: the language model's.
    """

    norm: Norm | Literal["inherit"]
    hidden_size: int | None
    bias: bool
    eps: float | None = 1e-5


PROJECTORS: Mapping[str, ProjectorType] = {
    # What InternVL has.
    "internvl": ProjectorType("layer_norm", None, bias=True),
    "llama3.1_8b": ProjectorType("layer_norm", 4096, bias=True),
    # Trained with the eps of the language model; the code beside the released weights has torch's default of 1e-5.
    "qwen2.0_72B": ProjectorType("layer_norm", 29568, bias=False, eps=1e-6),
    "qwen2.5_72B": ProjectorType("layer_norm", 29568, bias=False, eps=1e-6),
    "yi-34b": ProjectorType("layer_norm", 20480, bias=False),
    "qwen2.5_7B": ProjectorType("inherit", 3584, bias=False, eps=None),
    "mistral_7b": ProjectorType("none", 14336, bias=False),
    "llama3_8b": ProjectorType("inherit", 14336, bias=False, eps=None),
    "llama3.2_1b": ProjectorType("layer_norm", 2048, bias=False),
    "llama_nemotron_8b": ProjectorType("layer_norm", 14336, bias=True),
    # Any other model of Hugging Face's.
    "hf": ProjectorType("layer_norm", 4096, bias=False),
}
