"""The place of a rank that srun has started, by the variables that Slurm sets."""

import pytest

from vlmforge.parallel.slurm import expand_hosts, job_hosts, join_slurm

STEP = {
    "SLURM_JOB_ID": "100001",
    "SLURM_STEP_ID": "2",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_NTASKS": "6",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3)",
    "SLURM_STEP_NODELIST": "gpu[07-08,11]",
    "SLURM_JOB_NODELIST": "gpu[01-99]",
}
PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")


def test_a_task_of_a_step_is_a_rank() -> None:
    environ = dict(STEP)
    join_slurm(environ)
    assert [environ[name] for name in PLACE] == ["5", "6", "1", "2", "gpu07"]
    other = {**STEP, "SLURM_STEP_ID": "3", "SLURM_PROCID": "0"}
    join_slurm(other)
    # Steps that run beside each other must not meet.
    assert 10000 <= int(environ["MASTER_PORT"]) != int(other["MASTER_PORT"])


def test_the_variables_of_a_job_will_do() -> None:
    names = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_JOB_ID")
    environ = {name: STEP[name] for name in names} | {"SLURM_JOB_NODELIST": "a,b[1-2]", "MASTER_PORT": "7000"}
    join_slurm(environ)
    assert [environ[name] for name in PLACE] == ["5", "6", "1", "2", "a"]
    assert environ["MASTER_PORT"] == "7000"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {**STEP, "WORLD_SIZE": "2", "RANK": "1"},
        {**STEP, "SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "ENVIRONMENT": "BATCH", "SLURM_JOB_NODELIST": "a"},
    ],
    ids=["no Slurm", "torchrun", "a shell in a step", "the batch script"],
)
def test_what_is_no_task_of_many_stays_as_it_is(environ: dict[str, str]) -> None:
    before = dict(environ)
    join_slurm(environ)
    assert environ == before


@pytest.mark.parametrize(
    ("listed", "hosts"),
    [
        ("", []),
        ("login", ["login"]),
        ("gpu[1,3-4],b-2", ["gpu1", "gpu3", "gpu4", "b-2"]),
        ("r[1-2]n[08-10].lab", [f"r{r}n{n}.lab" for r in (1, 2) for n in ("08", "09", "10")]),
    ],
)
def test_host_lists_are_written_out(listed: str, hosts: list[str]) -> None:
    assert expand_hosts(listed) == hosts
    assert job_hosts({"SLURM_JOB_NODELIST": listed}) == hosts
