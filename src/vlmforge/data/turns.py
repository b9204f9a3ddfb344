"""What each trained token counts where turns are weighed by the square root of their length.

The rule is that of `--use-loss-scaling` in Megatron's multimodal training: the mean loss of each turn times the root of
its trained tokens, divided by the sum of those roots, so that a sample as a whole counts as one.
"""

# Shapes: S tokens of one sample.

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def weigh_turns(is_label: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """What the loss of each token counts: a turn is a run of labels.

    Of a turn with n of them each counts sqrt(n) / n, divided by the sum of sqrt(n) over the sample's turns.

    Args:
        is_label: `[S]`, True at trained tokens.

    Returns:
        `[S]`, 0 at tokens that are not trained; they sum to 1 if any is.
    """
    edges = np.flatnonzero(np.diff(is_label.astype(np.int8), prepend=0, append=0))
    roots = np.sqrt(edges[1::2] - edges[::2])
    weights = np.zeros(len(is_label), np.float32)
    weights[is_label] = np.repeat(1.0 / (roots * roots.sum()), edges[1::2] - edges[::2])
    return weights
