"""The ways in which a module is cut over ranks; apart from what does it, so that tables of them need no torch."""

from __future__ import annotations

from typing import Literal

# vocab: an embedding or an output head by its tokens. colwise, rowwise: a linear layer by its outputs or its inputs.
# by_head: whole on every rank, but used on the rank's own heads only. replicated: whole on every rank, with all that
# is in it. experts: a layer's experts, some of them on each rank.
Style = Literal["vocab", "colwise", "rowwise", "by_head", "replicated", "experts"]
