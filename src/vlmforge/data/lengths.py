"""Mean lengths of sources, which weights in tokens are turned into samples by.

Measured once, on rows spread evenly over each source, and kept in a run's manifest: a run that goes on uses what it
began with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlmforge.config.schema import Config
from vlmforge.data.bad import BadSampleError
from vlmforge.data.images import ImageRule
from vlmforge.data.mixture import Length, open_blend
from vlmforge.data.render import Renderer, build_renderer
from vlmforge.data.sources import Source, StreamSource
from vlmforge.errors import DataError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Rows of a source that are rendered; the mean of 512 lengths whose spread is their mean is off by 4%.
NUM_MEASURED = 512


def measure_lengths(
    config: Config,
    sources: Sequence[Source | StreamSource],
    tokenizer: PreTrainedTokenizerBase,
    image_rule: ImageRule | None = None,
) -> dict[str, Length]:
    """Tokens of a part of each source's rows, by its name.

    Sources that cannot seek are passed over: they have no rows spread over them. Samples that training would leave out
    give no token, as they will not there; those it cuts are counted as cut.

    Raises:
        DataError: none of a source's is left.
    """
    renderer = build_renderer(config, tokenizer, image_rule)
    return {source.name: _measure(source, renderer) for source in sources if isinstance(source, Source)}


def measure_train_lengths(
    config: Config, tokenizer: PreTrainedTokenizerBase, image_rule: ImageRule | None = None
) -> dict[str, Length] | None:
    """The lengths of `data.train`, where they decide or explain what is drawn; None for a single source.

    Raises:
        DataError: a source cannot be opened, or none of its rows used.
    """
    blend = open_blend(config.data, "train")
    return measure_lengths(config, blend.sources, tokenizer, image_rule) if blend.is_mixed else None


def _measure(source: Source, renderer: Renderer) -> Length:
    """The measured rows of one source."""
    count, num_tokens, num_samples = min(NUM_MEASURED, len(source)), 0, 0
    for k in range(count):
        try:
            sample = renderer.render(source.sample(k * len(source) // count))
        except BadSampleError:
            # Training tells what is wrong when the sample's turn comes, or leaves it out.
            continue
        num_tokens += sample.num_tokens
        num_samples += 1
    if not num_samples:
        raise DataError(
            Problem(
                f"source {source.name}: none of its first samples can be used, so its mean length is not known",
                f"source {source.name}",
                "data.weight_unit=samples, or raise stage.seq_len; data.on_bad_sample=error says what is wrong",
            )
        )
    return Length(num_tokens, count, count - num_samples)
