"""Samples that one rank had to leave out: each decodes the pictures of its own only, and here all learn of them."""

from __future__ import annotations

from collections.abc import Sequence

from vlmforge.data.ledger import Ledger, LostSample
from vlmforge.parallel.mesh import World, gather_objects


def settle_lost(ledger: Ledger, lost: Sequence[LostSample], world: World) -> list[LostSample]:
    """Count what any rank has lost in the ledger that all have; a collective.

    Args:
        ledger: in which they are counted as used.
        lost: this rank's.
        world: this rank's place.

    Returns:
        Those of all ranks, in the order of data ranks.
    """
    by_data_rank = dict(gather_objects((world.data_rank, tuple(lost))))
    everywhere = [sample for _, samples in sorted(by_data_rank.items()) for sample in samples]
    for sample in everywhere:
        ledger.count_lost(sample)
    return everywhere
