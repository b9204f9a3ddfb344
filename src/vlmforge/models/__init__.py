"""Models: families, building, adapters, tokenizers, export. The families import nothing heavy."""

from collections.abc import Mapping

from vlmforge.models.family import Family
from vlmforge.models.llama import LLAMA
from vlmforge.models.qwen2 import QWEN2

FAMILIES: Mapping[str, Family] = {family.name: family for family in (LLAMA, QWEN2)}
