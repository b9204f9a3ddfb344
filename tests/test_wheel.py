"""The wheel alone, outside the checkout, has the recipes and the configs."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str, cwd: Path) -> str:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_installed_wheel_lists_validates_and_trains(tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT), cwd=tmp_path)
    (wheel,) = tmp_path.glob("vlmforge-*.whl")
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"), cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    run(str(python), "-m", "pip", "install", "--no-deps", "--no-index", str(wheel), cwd=tmp_path)
    # The packages that vlmforge stands on are this environment's; vlmforge itself is the wheel's, found first.
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    (site / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(str(python), "-c", "import vlmforge; print(vlmforge.__file__)", cwd=tmp_path)
    assert str(tmp_path) in where
    command = str(tmp_path / "venv/bin/vlmforge")
    assert "smollm2/gsm8k_sft" in run(command, "recipes", cwd=tmp_path)
    assert run(command, "validate", "recipe=quickstart", cwd=tmp_path).startswith("ok:")
