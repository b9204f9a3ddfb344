"""Runs that are handed over: what is written, that it runs, and what is refused."""

from __future__ import annotations

import json
import os
import shlex
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.runs import column, environment, metrics, write_recipe
from vlmforge.cli import main, parse_request
from vlmforge.commands.configuring import load_config

TWO = ("parallelism.dp_shard=2", "launch.num_nodes=2")

# Runs a command once for each task, as many as it is asked for, on this machine.
SRUN = """\
#!/bin/bash
while [[ "$1" == --* ]]; do [[ "$1" == --ntasks=* ]] && tasks="${1#*=}"; shift; done
for ((task = 0; task < tasks; task++)); do SLURM_PROCID=$task SLURM_NODEID=$task "$@" & done
code=0
for job in $(jobs -p); do wait "$job" || code=1; done
exit $code
"""
# Says which words it was given.
TELL = f"""\
#!{sys.executable}
import json, sys
# In one write: two ranks write at once.
sys.stdout.write(json.dumps(sys.argv[1:]) + "\\n")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    write_recipe(tmp_path)
    return tmp_path


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def run_script(here: Path, script: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run an sbatch script as Slurm's first machine would, with stand-ins for Slurm's programs."""
    stand_ins = {"scontrol": "#!/bin/bash\necho 127.0.0.1\necho second\n", "srun": SRUN, **programs}
    for name, text in stand_ins.items():
        write_program(here / "bin" / name, text)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "a[1-2]", "PATH": f"{here / 'bin'}:{os.environ['PATH']}"}
    # From another folder: all paths are absolute.
    return subprocess.run(
        ["bash", str(script)],
        cwd="/",
        env={**environment(), **job},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
def test_the_script_trains_on_two_agents_what_one_process_trains(here: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Seven rows to validate on: one rank has one more than the other.
    held_out = "data.validation=[{path: 'builtin:messages', format: messages, rows: [48, 55]}]"
    cut = ("stage.packing=none", "~stage.packing_window")
    words = ("train", "recipe=short.yaml", "stage.max_steps=3", "checkpointing.export=never", held_out, *cut)
    assert main([*words, "run.name=two", "launch=slurm", "launch.device=cpu", f"launch.port={port}", *TWO]) == 0
    done = run_script(here, here / "runs/two/launch/job.sbatch")
    assert done.returncode == 0, done.stderr
    assert "on 2 ranks" in done.stdout
    assert main([*words, "run.name=one"]) == 0
    two, one = (column(here / f"runs/{name}", "loss", "grad_norm") for name in ("two", "one"))
    for ours, theirs in zip(two, one, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)
    validation = [metrics(here / f"runs/{name}")[-1]["validation_loss"] for name in ("two", "one")]
    assert validation[0] == pytest.approx(validation[1], rel=2e-5)


def test_names_with_quotes_reach_the_command_as_they_are(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = here / """it's "a" $HOME `x` run"""
    home.mkdir()
    monkeypatch.chdir(home)
    write_recipe(home)
    words = ("train", "recipe=short.yaml", "launch=slurm", "launch.image=org/image:1", "launch.time_limit=1-00")
    assert main([*words, *TWO]) == 0
    folder = home / "runs/short/launch"
    script = folder / "job.sbatch"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    done = run_script(here, script, python3=TELL)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == 2
    assert told[0][:2] == ["-m", "vlmforge.parallel.torchrun"]
    assert told[0][-3:] == ["vlmforge", "train", f"recipe={folder / 'recipe.yaml'}"]
    assert {"--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:29500"} < set(told[0])
    directives = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH ")]
    assert {"#SBATCH --nodes=2", "#SBATCH --gpus-per-node=1", "#SBATCH --time=1-00"} < set(directives)
    # Ranks are told as long before the end as their agents then wait for them.
    assert "#SBATCH --signal=TERM@300" in directives
    assert "--shutdown-timeout=300" in told[0]
    # sbatch takes backslashes in double quotes as a shell takes them.
    log = next(line for line in directives if "--output" in line).removeprefix("#SBATCH ")
    assert shlex.split(log) == [f"--output={folder}/slurm-%j.out"]


def test_a_job_that_has_saved_says_how_it_goes_on(here: Path) -> None:
    words = ("train", "recipe=short.yaml", "launch=slurm", "launch.environment={NCCL_DEBUG: two words}")
    assert main([*words]) == 0
    assert main([*words, "launch.requeue=true", "launch.folder=again"]) == 0
    # The agents return 130 when all of their ranks have stopped and saved.
    srun = '#!/bin/bash\necho "debug: $NCCL_DEBUG"\nexit 130\n'
    script = here / "runs/short/launch/job.sbatch"
    done = run_script(here, script, srun=srun)
    assert done.returncode == 130
    assert done.stdout == f"debug: two words\nstopped and saved; goes on from there with: sbatch {script}\n"
    scontrol = '#!/bin/bash\n[ "$1" = requeue ] && echo "again: $2" || echo localhost\n'
    done = run_script(here, here / "again/job.sbatch", srun=srun, scontrol=scontrol)
    assert "the job is queued again\nagain: 7\n" in done.stdout
    assert "#SBATCH --requeue\n" in (here / "again/job.sbatch").read_text()
    # Any other end is passed on, and nothing is queued.
    done = run_script(here, here / "again/job.sbatch", srun="#!/bin/bash\nexit 3\n", scontrol=scontrol)
    assert (done.returncode, done.stdout) == (3, "")


def test_a_container_sees_what_is_mounted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = ("launch.image=org/image:1", "launch.memory_gib_per_node=64", "launch.max_restarts=1")
    paths = {"train": "rows.jsonl", "validation": f"{here}/held_out.jsonl"}
    volumes = "launch.volumes={/scratch/data: /data}"
    words = ("train", "recipe=short.yaml", "launch=slurm", volumes, *image)
    data = [f"data.{blend}=[{{path: {path}, format: messages}}]" for blend, path in paths.items()]
    assert main([*words, *data, "check_data=false"]) == 0
    text = (here / "runs/short/launch/job.sbatch").read_text()
    assert f"--container-mounts=/scratch/data:/data,{here}/runs:{here}/runs" in text
    assert "#SBATCH --mem=64G\n" in text
    told = capsys.readouterr().out
    assert "rows.jsonl (data.train.0.path) is not on this machine" in told
    assert f"{here}/held_out.jsonl (data.validation.0.path) is on no volume" in told
    assert f"{here}/runs (run.output_dir) is on no volume" not in told
    assert "checkpointing.every_steps is not set: after a failure launch.max_restarts begins again" in told


# What a cluster asks for, in its own words.
POD = (
    "launch.environment={NCCL_DEBUG: INFO}",
    "launch.secrets={HF_TOKEN: hub/token}",
    "launch.pod={nodeSelector: {gpu: h100}, securityContext: {fsGroup: 1000}}",
    "launch.memory_gib_per_node=64",
    "launch.stop_seconds=600",
)


def documents(here: Path, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    launch = (
        "launch=kubernetes",
        "launch.image=lab/vlmforge:1",
        "launch.num_nodes=3",
        "launch.processes_per_node=2",
        "launch.namespace=lab",
    )
    rest = ("parallelism.dp_shard=-1", "stage.global_batch_size=6", "'launch.volumes={my-claim: /data}'")
    assert main(["train", "recipe=short.yaml", *launch, *(shlex.split(word)[0] for word in rest), *words]) == 0
    name = next((word.removeprefix("run.name=") for word in words if word.startswith("run.name=")), "short")
    config_map, job = yaml.safe_load_all((here / f"runs/{name}/launch/job.yaml").read_text())
    return config_map, job


def test_a_pytorch_job_has_what_its_definition_asks_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config_map, job = documents(here, *POD)
    assert "is on no volume" in capsys.readouterr().out
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert job["metadata"] == {"name": "short", "namespace": "lab"} == config_map["metadata"]
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert {role: replica["replicas"] for role, replica in replicas.items()} == {"Master": 1, "Worker": 2}
    pod = replicas["Worker"]["template"]["spec"]
    assert pod == replicas["Master"]["template"]["spec"]
    (container,) = pod["containers"]
    # The operator knows the container by its name.
    assert (container["name"], container["image"]) == ("pytorch", "lab/vlmforge:1")
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 2, "memory": "64Gi"}, "requests": {"memory": "64Gi"}}
    assert (pod["nodeSelector"], pod["securityContext"]) == ({"gpu": "h100"}, {"fsGroup": 1000})
    assert container["env"] == [
        {"name": "VLMFORGE_HOSTS", "value": "short-master-0,short-worker-0,short-worker-1"},
        {"name": "NCCL_DEBUG", "value": "INFO"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
    ]
    assert container["command"][:3] == ["python3", "-m", "vlmforge.parallel.torchrun"]
    # A pod outlives its ranks, for which the agent waits this long.
    assert "--shutdown-timeout=600" in container["command"]
    assert pod["terminationGracePeriodSeconds"] > 600
    assert {"--nnodes=3", "--nproc-per-node=2", "--rdzv-endpoint=short-master-0:29500"} < set(container["command"])
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    claims = {
        v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v
    }
    assert {claim: mounts[name] for name, claim in claims.items()} == {"my-claim": "/data"}
    # The recipe that the pods read is one: nothing of it was lost on the way.
    assert f"recipe={mounts['recipe']}/recipe.yaml" in container["command"]
    (here / "from_pod.yaml").write_text(config_map["data"]["recipe.yaml"])
    assert config_map["data"]["recipe.yaml"] == (here / "runs/short/launch/recipe.yaml").read_text()
    assert main(["validate", "recipe=from_pod.yaml"]) == 0


def test_a_train_job_has_what_its_definition_asks_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, job = documents(here, "launch.manifest=trainjob", "launch.device=cpu", "launch.cpus_per_node=4", POD[2])
    assert "a TrainJob cannot set how long its pods may take to stop" in capsys.readouterr().out
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    spec = job["spec"]
    assert spec["runtimeRef"] == {"name": "torch-distributed"}
    trainer = spec["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (3, 2)
    assert trainer["resourcesPerNode"] == {"requests": {"cpu": 4}}
    assert "--rdzv-endpoint=short-node-0-0.short:29500" in trainer["command"]
    assert trainer["env"][0]["value"] == "short-node-0-0,short-node-0-1,short-node-0-2"
    (patch,) = spec["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    assert patch["manager"]
    # Nothing but what a TrainJob can patch.
    assert pod.keys() == {"nodeSelector", "securityContext", "volumes", "containers"}
    assert node["name"] == pod["containers"][0]["name"] == "node"
    assert {volume["name"] for volume in pod["volumes"]} == {m["name"] for m in pod["containers"][0]["volumeMounts"]}


def test_a_model_that_every_pod_would_fetch_is_noted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("model.init=pretrained", "model.pretrained=lab/small")
    documents(here, *words)
    told = capsys.readouterr().out
    assert "lab/small (model.pretrained) comes from the hub: unless the image has it, every pod fetches all" in told
    advice = told.partition("at every start; ")[2].partition(" keeps one copy")[0]
    documents(here, *words, *shlex.split(advice), "run.name=kept")
    assert "comes from the hub" not in capsys.readouterr().out


def test_what_was_written_is_not_overwritten_by_something_else(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Wherever the tests run: what is in it the other machines do not have.
    monkeypatch.setattr("tempfile.tempdir", str(here))
    words = ("train", "recipe=short.yaml", "launch=slurm")
    assert main([*words]) == 0
    assert f"{here}/runs/short/launch (the job's own files): most machines have " in capsys.readouterr().out
    assert main([*words]) == 0
    before = (here / "runs/short/launch/job.sbatch").read_text()
    assert main([*words, "launch.partition=gpu"]) == 2
    assert "launch/recipe.yaml is there already" in capsys.readouterr().err
    assert (here / "runs/short/launch/job.sbatch").read_text() == before
    assert main([*words, "launch.partition=gpu", "launch.folder=other"]) == 0
    assert "--partition=gpu\n" in (here / "other/job.sbatch").read_text()


def test_a_job_is_handed_in(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("train", "recipe=short.yaml", "launch=slurm", "launch.submit=true")
    assert main([*words]) == 2
    assert "needs sbatch, which is not on PATH" in capsys.readouterr().err
    monkeypatch.setenv("PATH", f"{here / 'bin'}:{os.environ['PATH']}")
    write_program(here / "bin/sbatch", '#!/bin/bash\n[ -f "$1" ] && echo "Submitted batch job 7: $1"\n')
    assert main([*words]) == 0
    assert f"Submitted batch job 7: {here}/runs/short/launch/job.sbatch" in capsys.readouterr().out
    write_program(here / "bin/sbatch", "#!/bin/bash\necho 'error: invalid partition' >&2\nexit 1\n")
    assert main([*words]) == 2
    assert "ended with code 1: error: invalid partition" in capsys.readouterr().err


def test_one_machine_cannot_start_the_ranks_of_two(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "recipe=short.yaml", *TWO]) == 2
    assert "this command starts ranks on one machine" in capsys.readouterr().err
    # Where it is to be trained elsewhere, the recipe is fine.
    assert main(["validate", "recipe=short.yaml", "check_data=false", *TWO]) == 0


def test_print_shows_a_command_and_does_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["recipe=short.yaml", "launch.host=10.0.0.1", "run.name='two words'", *TWO]
    assert main(["train", "launch=print", *words]) == 0
    comment, command = capsys.readouterr().out.split("\n", 1)
    assert "on each of 2 machines" in comment
    told = shlex.split(command)
    assert told[:3] == [sys.executable, "-m", "vlmforge.parallel.torchrun"]
    assert {"--nnodes=2", "--nproc-per-node=1", "--rdzv-endpoint=10.0.0.1:29500"} < set(told)
    started = told[told.index("vlmforge") + 1 :]
    assert sorted(started) == sorted(["train", "launch=print", *words])
    # Ranks that torchrun starts with these words take them.
    loaded = load_config(parse_request(started), runs_here=True, environ={"WORLD_SIZE": "2"})
    assert (loaded.batch.world_size, loaded.run_name) == (2, "two words")
    assert main(["train", "launch=print", "recipe=short.yaml", "launch.max_restarts=2"]) == 0
    alone = capsys.readouterr().out
    assert "--standalone" in alone
    assert "--max-restarts=2" in alone
    assert sorted(path.name for path in here.iterdir()) == ["short.yaml"]


@pytest.mark.parametrize(("num_gpus", "is_said"), [(0, False), (1, True), (2, False)])
def test_more_ranks_than_gpus_are_refused_before_they_start(
    num_gpus: int, is_said: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vlmforge.commands.configuring.count_gpus", lambda config, environ: num_gpus)
    # The other mistake keeps the run from starting.
    main(["train", "recipe=quickstart", "parallelism.dp_shard=2", "stage.seq_len=1"])
    report = capsys.readouterr().err
    assert "stage.seq_len" in report
    assert ("the mesh has 2 ranks, and this machine 1 GPU: each needs one" in report) is is_said
