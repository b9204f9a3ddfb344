"""Handing a run over: to Slurm or Kubernetes as files, and a command to hand them in; or to the user as a command."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vlmforge.commands.configuring import LoadedRecipe
from vlmforge.commands.request import Request
from vlmforge.config.derived import count_gpus, derive_nodes
from vlmforge.config.encode import encode_absolute, to_yaml
from vlmforge.config.schema import Config
from vlmforge.errors import EXIT_OK, ConfigError, Problem
from vlmforge.observe.files import write_text
from vlmforge.parallel.kubernetes import KubernetesJob, job_manifest, job_name
from vlmforge.parallel.slurm import SlurmJob, sbatch_script
from vlmforge.parallel.torchrun import Agents, installed_torchrun, shell_text

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
        return EXIT_OK
    _check_on_meta(config)
    folder = _job_folder(config)
    name, text = (_slurm if config.launch.kind == "slurm" else _kubernetes)(config, agents, folder)
    files = {folder / "recipe.yaml": _recipe_text(config), folder / name: text}
    _write_new(files, config)
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
    return Agents(num_nodes, processes_per_node, name, launch.max_restarts, launch.preflight_seconds)


def _commands(request: Request, config: Config, agents: Agents) -> str:
    """The command, and on which machines it is typed; its ranks join, because torchrun has started them."""
    words = request.words()
    if agents.num_nodes == 1:
        options = ["--standalone", f"--nproc-per-node={agents.processes_per_node}"]
        return "# on this machine\n" + shell_text([*installed_torchrun(), *options, "-m", "vlmforge", *words])
    host = config.launch.host or socket.gethostname()
    command = agents.command(installed_torchrun(), f"{host}:{config.launch.port}", words)
    where = f"# on each of {agents.num_nodes} machines, in the same folder; they meet on {host}, which is one of them"
    return f"{where}\n{shell_text(command)}"


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
        port=launch.port,
        image=launch.image,
        partition=launch.partition,
        account=launch.account,
        time_limit=launch.time_limit,
    )
    # A container has an environment of its own.
    program = installed_torchrun() if launch.image is None else ["torchrun"]
    words = ["train", f"recipe={folder / 'recipe.yaml'}", *_trust(config)]
    return "job.sbatch", sbatch_script(job, agents, program, words)


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
        volumes=launch.volumes,
        port=launch.port,
    )
    output = Path(config.run.output_dir).absolute()
    if not any(output.is_relative_to(path) for path in launch.volumes.values()):
        print(f"note: {output} is on no volume of launch.volumes, so what the pods write there is lost with them")
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
