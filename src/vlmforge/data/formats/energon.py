"""Format `energon`: whatever the `.nv-meta/dataset.yaml` of a prepared folder says its samples are.

`sources/` replaces it by the format of that sample type before a row is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmforge.data.formats.base import Format, Guidance
from vlmforge.data.sample import Place, Sample


def _parse(fields: Mapping[str, Any], place: Place, guidance: Guidance) -> Sample:
    """Nothing is ever read as this."""
    raise AssertionError("format energon was not replaced by that of the sample type")


ENERGON = Format(name="energon", required=(), optional=(), parse_fields=_parse)
