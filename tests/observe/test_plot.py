import json
import subprocess
import sys

import pytest

from vlmforge.observe.plot import choose_scale, collect_points, save_loss_curve, smooth


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def run_of(num_steps):
    return [
        {"step": step, "loss": 3 / step, "lr": 1e-5, **({"validation_loss": 1.0} if step % 10 == 0 else {})}
        for step in range(1, num_steps + 1)
    ]


@pytest.mark.parametrize("num_steps", [1, 2, 50])
def test_a_run_of_any_length_is_drawn(tmp_path, num_steps):
    png_path = tmp_path / "new" / "loss.png"
    assert save_loss_curve(write(tmp_path / "metrics.jsonl", run_of(num_steps)), png_path)
    content = png_path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 5000


def test_a_run_without_a_loss_leaves_no_picture(tmp_path):
    for name, records in {"none": [], "nan": [{"step": 1, "loss": None, "lr": 0.0}]}.items():
        assert not save_loss_curve(write(tmp_path / name, records), tmp_path / "loss.png")
    assert not save_loss_curve(tmp_path / "missing.jsonl", tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()


def test_steps_without_a_number_are_left_out():
    records = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 3}, {"step": 4, "loss": 0.0}]
    assert collect_points(records, "loss") == ([1, 4], [2.0, 0.0])


def test_a_constant_loss_stays_constant_when_smoothed():
    assert smooth([2.5] * 100) == pytest.approx([2.5] * 100)


def test_smoothing_takes_out_noise():
    smoothed = smooth([1.0, 3.0] * 100)
    assert max(smoothed[20:]) - min(smoothed[20:]) < 0.3


def test_smoothing_does_not_lag_behind_a_falling_loss():
    values = [10 - 0.05 * step for step in range(100)]
    assert smooth(values)[:-5] == pytest.approx(values[:-5])


@pytest.mark.parametrize(
    ("values", "scale"),
    [([2.4, 1.6], "linear"), ([11.0, 0.5], "log"), ([1.0, 0.0], "linear"), ([1.0], "linear")],
)
def test_the_scale_is_logarithmic_where_the_loss_falls_far(values, scale):
    assert choose_scale(values) == scale


def test_matplotlib_and_torch_are_imported_by_those_who_need_them():
    modules = ["files", "manifest", "metrics", "plot", "progress", "speed", "trackers"]
    code = "; ".join(f"import vlmforge.observe.{name}" for name in modules)
    code += "; import sys; print(*{'matplotlib', 'torch', 'tensorboard', 'wandb'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
