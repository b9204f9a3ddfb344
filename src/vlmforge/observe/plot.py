"""The loss curve of a run, drawn from its metrics.jsonl."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmforge.observe.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Training from random weights falls steeply and then creeps: only a logarithmic axis shows both.
LOG_SCALE_FROM_RATIO = 8.0


def save_loss_curve(metrics_path: Path, png_path: Path) -> bool:
    """Draw training loss (every step, and smoothed), validation loss and learning rate.

    Args:
        metrics_path: metrics.jsonl of a run.
        png_path: the picture; replaced if it exists.

    Returns:
        Whether there was a loss to draw; False leaves no file.
    """
    records = read_metrics(metrics_path)
    loss = collect_points(records, "loss")
    if not loss[0]:
        return False
    # Imported here: takes half a second that no other command should pay. The figure is made without pyplot,
    # which would keep it in a global list and look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, lr_axes = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    draw_loss(loss_axes, loss, collect_points(records, "validation_loss"))
    draw_lr(lr_axes, collect_points(records, "lr"))
    png_path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png_path, dpi=120)
    return True


def collect_points(records: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, without the steps that have none (or had nan, written as null)."""
    points = [(record["step"], record[name]) for record in records if record.get(name) is not None]
    return [step for step, _ in points], [value for _, value in points]


def smooth(values: Sequence[float]) -> list[float]:
    """Mean over a window of about a tenth of the run, centred on each step.

    Centred, because a trailing mean lies above a falling loss. At the steep start the window shrinks on both sides
    alike, for the same reason. At the end it loses only the steps that do not exist: a mean of fewer would show the
    noise of the last ones as the result.
    """
    half = len(values) // 20
    sums = [0.0, *itertools.accumulate(values)]
    smoothed: list[float] = []
    for index in range(len(values)):
        reach = min(half, index)
        start, stop = index - reach, min(index + reach + 1, len(values))
        smoothed.append((sums[stop] - sums[start]) / (stop - start))
    return smoothed


def choose_scale(values: Sequence[float]) -> str:
    """`log` where the values span a large ratio and are all positive, else `linear`."""
    low, high = min(values), max(values)
    return "log" if low > 0 and high / low >= LOG_SCALE_FROM_RATIO else "linear"


def draw_loss(axes: Axes, training: tuple[list[int], list[float]], validation: tuple[list[int], list[float]]) -> None:
    """Draw the upper panel."""
    steps, values = training
    marker = "." if len(values) < 3 else None  # a line of one point would not be seen
    axes.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=1, marker=marker, label="training loss")
    if len(values) >= 20:
        axes.plot(steps, smooth(values), color="tab:blue", linewidth=1.8, label="smoothed")
    if validation[0]:
        axes.plot(*validation, color="tab:orange", linewidth=1.2, marker="o", markersize=4, label="validation loss")
    axes.set_yscale(choose_scale([*values, *validation[1]]))
    axes.set_ylabel("loss (nats per label token)")
    axes.grid(alpha=0.25, which="both")
    axes.legend(frameon=False)


def draw_lr(axes: Axes, lr: tuple[list[int], list[float]]) -> None:
    """Draw the lower panel, from zero, so that the shape of the schedule is seen."""
    axes.plot(*lr, color="tab:green", linewidth=1.2, marker="." if len(lr[0]) < 3 else None)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes.set_ylabel("learning rate")
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)
