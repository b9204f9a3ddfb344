"""Models: families, building, adapters, tokenizers, export. The families import nothing heavy."""

from collections.abc import Mapping

from vlmforge.models.family import Family
from vlmforge.models.gemma import GEMMA
from vlmforge.models.gemma2 import GEMMA2
from vlmforge.models.gemma3 import GEMMA3
from vlmforge.models.internvl import INTERNVL
from vlmforge.models.llama import LLAMA
from vlmforge.models.llama4 import LLAMA4
from vlmforge.models.mistral import MISTRAL
from vlmforge.models.qwen2 import QWEN2
from vlmforge.models.qwen2_5_vl import QWEN2_5_VL
from vlmforge.models.qwen3 import QWEN3
from vlmforge.models.qwen3_moe import QWEN3_MOE
from vlmforge.models.qwen3_vl import QWEN3_VL
from vlmforge.models.qwen3_vl_moe import QWEN3_VL_MOE
from vlmforge.models.seed_oss import SEED_OSS
from vlmforge.models.stitched import STITCHED

_TEXT = (LLAMA, LLAMA4, MISTRAL, QWEN2, QWEN3, QWEN3_MOE, GEMMA, GEMMA2, GEMMA3, SEED_OSS)
_VISION = (QWEN2_5_VL, QWEN3_VL, QWEN3_VL_MOE, INTERNVL, STITCHED)

FAMILIES: Mapping[str, Family] = {family.name: family for family in (*_TEXT, *_VISION)}
