"""Handing a run over: to Slurm or Kubernetes as files, and a command to hand them in; or to the user as a command."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vlmforge.commands.configuring import LoadedRecipe
from vlmforge.commands.reachable import recipe_paths, tell_fetched, tell_own, tell_unreachable
from vlmforge.commands.request import Request
from vlmforge.config.derived import count_gpus, derive_nodes
from vlmforge.config.encode import encode_absolute, to_yaml
from vlmforge.config.schema import Config
from vlmforge.errors import EXIT_OK, ConfigError, Problem
from vlmforge.observe.files import write_text
from vlmforge.parallel.kubernetes import RUNTIME, KubernetesJob, job_manifest, job_name
from vlmforge.parallel.slurm import SlurmJob, sbatch_script
from vlmforge.parallel.torchrun import Agents, agent_program, shell_text

SCRIPT_NAME = "job.sbatch"
SUBMITTERS: Mapping[str, tuple[str, ...]] = {"slurm": ("sbatch",), "kubernetes": ("kubectl", "apply", "-f")}


def hand_over(request: Request, loaded: LoadedRecipe, config: Config) -> int:
    """Write, submit or show what starts the ranks of a run elsewhere.

    Args:
        request: its words are what `print` repeats.
        loaded: the recipe, checked.
        config: the same with the name of the run.

    Raises:
        ConfigError: the model does not match its tables, there are other files in the place, or handing in failed.
    """
    agents = _agents(config)
    if config.launch.kind == "print":
        print(_commands(request, config, agents))
        # The shell that this is pasted into takes it for a comment.
        _tell(_notes(config), "# note")
        return EXIT_OK
    _check_on_meta(config)
    folder = _job_folder(config)
    name, text = (_slurm if config.launch.kind == "slurm" else _kubernetes)(config, agents, folder)
    files = {folder / "recipe.yaml": _recipe_text(config), folder / name: text}
    _write_new(files, config)
    _tell(_notes(config))
    submit = [*SUBMITTERS[config.launch.kind], str(folder / name)]
    size = f"{agents.num_nodes} x {agents.processes_per_node} ranks"
    print(f"{loaded.recipe_name}: {size}; wrote {' and '.join(str(path) for path in files)}", flush=True)
    if config.launch.submit:
        _submit(submit)
    else:
        print(f"next: {shlex.join(submit)}")
    return EXIT_OK


def _check_on_meta(config: Config) -> None:
    """Gate 3 as `validate` runs it, which imports torch: a job that waits for a day must not end at its start."""
    from vlmforge.models.build import check_on_meta

    problems = check_on_meta(config)
    if problems:
        raise ConfigError(problems)


def _agents(config: Config) -> Agents:
    launch = config.launch
    num_nodes, processes_per_node = derive_nodes(config, count_gpus(config))
    assert config.run.name is not None, "the command derives a name from the recipe's"
    name = job_name(config.run.name)
    return Agents(
        num_nodes, processes_per_node, name, launch.max_restarts, launch.preflight_seconds, launch.stop_seconds
    )


def _tell(notes: Iterable[str], sign: str = "note") -> None:
    for note in notes:
        print(f"{sign}: {note}")


def _notes(config: Config) -> Iterator[str]:
    """What a user would find out when the job has started, or has failed."""
    launch = config.launch
    if config.checkpointing.every_steps is None and (launch.max_restarts or launch.requeue):
        key = "launch.max_restarts" if launch.max_restarts else "launch.requeue"
        yield (
            f"checkpointing.every_steps is not set: after a failure {key} begins again at the first step, and only a "
            "run that was told to stop goes on from where it was"
        )
    if launch.kind == "kubernetes":
        yield from tell_unreachable(config, launch.volumes.values(), "the pods")
        yield from tell_fetched(config, list(launch.volumes.values()))
        if launch.manifest == "trainjob":
            yield (
                f"a TrainJob cannot set how long its pods may take to stop: where the runtime {RUNTIME} does not say "
                f"terminationGracePeriodSeconds, it is 30 s, whatever launch.stop_seconds = {launch.stop_seconds} says"
            )
    if launch.kind == "slurm":
        yield from _slurm_notes(config)


def _slurm_notes(config: Config) -> Iterator[str]:
    folder = _job_folder(config)
    if config.launch.image is None:
        needed = {**recipe_paths(config), str(folder): "the job's own files", sys.executable: "this Python"}
    else:
        mounts = _mounts(config, folder)
        yield from tell_unreachable(config, mounts.values(), "its containers")
        needed = dict.fromkeys(mounts, "mounted")
    yield from tell_own(needed, "the machines of the job")


def _commands(request: Request, config: Config, agents: Agents) -> str:
    """The command, and on which machines it is typed; its ranks join, because torchrun has started them."""
    words = request.words()
    if agents.num_nodes == 1:
        later = [f"--max-restarts={agents.max_restarts}", f"--shutdown-timeout={agents.stop_seconds}"]
        options = ["--standalone", f"--nproc-per-node={agents.processes_per_node}", *later]
        return f"# on this machine\n{_exports(config)}" + shell_text(
            [*agent_program(), *options, "-m", "vlmforge", *words]
        )
    host = config.launch.host or socket.gethostname()
    command = agents.command(agent_program(), f"{host}:{config.launch.port}", words)
    where = f"# on each of {agents.num_nodes} machines, in the same folder; they meet on {host}, which is one of them"
    return f"{where}\n{_exports(config)}{shell_text(command)}"


def _exports(config: Config) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in config.launch.environment.items())


def _job_folder(config: Config) -> Path:
    launch, run = config.launch, config.run
    assert run.name is not None, "the command derives a name from the recipe's"
    return Path(launch.folder).absolute() if launch.folder else Path(run.output_dir).absolute() / run.name / "launch"


def _recipe_text(config: Config) -> str:
    """The recipe that the job trains: complete, with absolute paths; reading it again hands nothing in."""
    return to_yaml(encode_absolute(replace(config, launch=replace(config.launch, submit=False))))


def _trust(config: Config) -> list[str]:
    """What counts on the command line only, and so is in no file."""
    return ["model.trust_remote_code=true"] if config.model.trust_remote_code else []


def _mounts(config: Config, folder: Path) -> dict[str, str]:
    """Folders of the machines to paths in the container: the recipe's, and where the job's own files are."""
    volumes, output = dict(config.launch.volumes), Path(config.run.output_dir).absolute()
    own = output if folder.is_relative_to(output) else folder
    if not any(own.is_relative_to(place) for place in volumes.values()):
        volumes[str(own)] = str(own)
    return volumes


def _num_gpus(config: Config, agents: Agents) -> int:
    return 0 if config.launch.device == "cpu" else agents.processes_per_node


def _slurm(config: Config, agents: Agents, folder: Path) -> tuple[str, str]:
    """Name and text of the script."""
    launch = config.launch
    job = SlurmJob(
        name=agents.name,
        log=str(folder / "slurm"),
        gpus_per_node=_num_gpus(config, agents),
        cpus_per_node=launch.cpus_per_node,
        memory_gib_per_node=launch.memory_gib_per_node,
        port=launch.port,
        image=launch.image,
        mounts={} if launch.image is None else _mounts(config, folder),
        environment=launch.environment,
        partition=launch.partition,
        account=launch.account,
        time_limit=launch.time_limit,
        stop_seconds=launch.stop_seconds,
        requeue=launch.requeue,
        path=str(folder / SCRIPT_NAME),
    )
    # A container has an environment of its own.
    program = agent_program(None if launch.image is None else "python3")
    words = ["train", f"recipe={folder / 'recipe.yaml'}", *_trust(config)]
    return SCRIPT_NAME, sbatch_script(job, agents, program, words)


def _kubernetes(config: Config, agents: Agents, folder: Path) -> tuple[str, str]:
    """Name and text of the manifest."""
    launch = config.launch
    assert launch.image is not None, "gate 1 asks for one"
    job = KubernetesJob(
        name=agents.name,
        namespace=launch.namespace,
        image=launch.image,
        gpus_per_node=_num_gpus(config, agents),
        cpus_per_node=launch.cpus_per_node,
        memory_gib_per_node=launch.memory_gib_per_node,
        volumes=launch.volumes,
        port=launch.port,
        environment=launch.environment,
        secrets=launch.secrets,
        pod=launch.pod,
    )
    return "job.yaml", job_manifest(launch.manifest, job, agents, _recipe_text(config), _trust(config))


def _write_new(files: Mapping[Path, str], config: Config) -> None:
    """Write files that are not there, or are the same; nothing is written if one is another."""
    others = [path for path, text in files.items() if path.exists() and path.read_text() != text]
    if others:
        folder = others[0].parent
        problem = Problem(
            f"{others[0]} is there already, with other content",
            str(folder),
            f"rm -r {shlex.quote(str(folder))}, or launch.folder=<another>, or run.name={config.run.name}-2",
        )
        raise ConfigError(problem)
    try:
        for path, text in files.items():
            write_text(path, text)
    except OSError as error:
        # A run folder inside a pod need not be a place of this machine.
        where = f"launch.folder = {config.launch.folder or 'null'}"
        problem = Problem(f"the job's files cannot be written: {error}", where, "launch.folder=my-job")
        raise ConfigError(problem) from error


def _submit(command: Sequence[str]) -> None:
    """Run sbatch or kubectl, and repeat what it says."""
    where = "command line: launch.submit=true"
    later = f"launch.submit=false, and on a machine that has it: {shlex.join(command)}"
    if shutil.which(command[0]) is None:
        raise ConfigError(Problem(f"launch.submit = true needs {command[0]}, which is not on PATH", where, later))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())
        problem = Problem(f"{shlex.join(command)} ended with code {done.returncode}: {said}", where, later)
        raise ConfigError(problem)
    print(done.stdout, end="")
