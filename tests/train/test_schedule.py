"""Learning rates against the values that the systems' own schedules give (Megatron's at whole numbers of steps)."""

import math

import pytest

from vlmforge.config.schema import ScheduleConfig
from vlmforge.train.schedule import lr_factor

# Peak, lowest, warm-up and decay in samples, global batch, and the learning rate after so many updates.
MEGATRON = [
    (2e-4, 0.0, 102_400, 1_491_231, 1024, {0: 0.0, 1: 2e-6, 10: 2e-5, 100: 2e-4, 1000: 5.08422e-5}),
    (2e-5, 0.0, 74_827, 2_494_236, 128, {100: 3.42122e-6, 1000: 1.99762e-5, 10000: 1.00588e-5}),
    (1e-4, 2.5e-5, 83_200, 25_600_000, 2048, {1: 2.46154e-6, 100: 9.99958e-5, 1000: 9.89081e-5, 10000: 3.22071e-5}),
    (2e-6, 2.5e-7, 83_200, 25_600_000, 256, {1: 6.15385e-9, 1000: 1.99980e-6, 10000: 1.95963e-6}),
]


@pytest.mark.parametrize(("peak", "lowest", "warmup", "decay", "batch", "expected"), MEGATRON)
def test_schedules_in_samples_equal_megatrons(
    peak: float, lowest: float, warmup: int, decay: int, batch: int, expected: dict[int, float]
) -> None:
    schedule = ScheduleConfig(name="cosine", warmup_samples=warmup, decay_samples=decay, min_lr_ratio=lowest / peak)
    for updates, lr in expected.items():
        assert peak * lr_factor(schedule, updates + 1, 10**6, batch) == pytest.approx(lr, rel=5e-6)


def test_the_rate_stays_at_its_lowest_after_the_decay() -> None:
    schedule = ScheduleConfig(name="cosine", warmup_samples=83_200, decay_samples=25_600_000, min_lr_ratio=0.25)
    assert lr_factor(schedule, 12_501, 60_000, 2048) == pytest.approx(0.25)
    assert lr_factor(schedule, 60_000, 60_000, 2048) == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_step_k_uses_what_transformers_gives_after_k_minus_1_updates(name: str) -> None:
    import torch
    from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

    theirs = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = theirs(optimizer, num_warmup_steps=3, num_training_steps=20)
    for step in range(1, 21):
        ours = lr_factor(ScheduleConfig(name=name, warmup_steps=3), step, 20, 8)  # type: ignore[arg-type]
        assert ours == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_wsd_holds_nine_tenths_and_then_decays() -> None:
    schedule = ScheduleConfig(name="wsd", warmup_steps=10, min_lr_ratio=0.1)
    factors = [lr_factor(schedule, step, 110, 1) for step in range(1, 111)]
    assert factors[0] == 0
    assert factors[10:101] == [1.0] * 91
    assert factors[105] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert factors[101] > factors[105] > factors[109] > 0.1


def test_a_warmup_ratio_counts_whole_steps() -> None:
    schedule = ScheduleConfig(name="constant", warmup_ratio=0.1)
    assert [lr_factor(schedule, step, 25, 1) for step in (1, 2, 3, 4)] == [0.0, 0.5, 1.0, 1.0]
