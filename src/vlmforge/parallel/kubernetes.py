"""The manifest of a Kubernetes job that runs torchrun in every pod, with the recipe in a ConfigMap beside it.

Two kinds of job exist: PyTorchJob (`kubeflow.org/v1`, Training Operator v1), whose container must be called `pytorch`,
and TrainJob (`trainer.kubeflow.org/v1alpha1`, Kubeflow Trainer), which takes its pods from a runtime, here the
`torch-distributed` that Trainer installs, and adds volumes to them through `runtimePatches` (Trainer 2.2 or newer).
https://www.kubeflow.org/docs/components/trainer/
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from vlmforge.parallel.torchrun import Agents, agent_program

RECIPE_FOLDER = "/etc/vlmforge"
# Names of pods are made of the job's name, and have at most 63 characters.
MAX_NAME = 40
RUNTIME = "torch-distributed"
# For an agent, after its ranks have ended.
FAREWELL_SECONDS = 30
# The pods of a job by name, with commas between, for whoever waits for them (`gather.py`, which imports torch).
HOSTS = "VLMFORGE_HOSTS"


@dataclass(frozen=True)
class KubernetesJob:
    """What a manifest asks for.

    Attributes:
        name: of the job, as `job_name` makes it.
        namespace: None: that of the user's context.
        image: of the pods; its python3 has vlmforge.
        gpus_per_node: of each pod; 0: none.
        cpus_per_node: of each pod; None: no request.
        memory_gib_per_node: of each pod; None: neither request nor limit.
        volumes: claim to the path where it is mounted.
        port: where the agents meet.
        environment: variables of the ranks.
        secrets: variable to `secret/entry`.
        pod: more of the pods' specification.
    """

    name: str
    namespace: str | None
    image: str
    gpus_per_node: int
    cpus_per_node: int | None
    memory_gib_per_node: int | None
    volumes: Mapping[str, str]
    port: int
    environment: Mapping[str, str]
    secrets: Mapping[str, str]
    pod: Mapping[str, Any]

    def metadata(self) -> dict[str, Any]:
        """Of everything in the manifest."""
        return {"name": self.name} | ({"namespace": self.namespace} if self.namespace else {})

    def resources(self) -> dict[str, Any]:
        """What each pod gets: GPUs are limits, for which requests are made equal; memory is both."""
        memory = {"memory": f"{self.memory_gib_per_node}Gi"} if self.memory_gib_per_node else {}
        limits = ({"nvidia.com/gpu": self.gpus_per_node} if self.gpus_per_node else {}) | memory
        requests = ({"cpu": self.cpus_per_node} if self.cpus_per_node else {}) | memory
        return {name: value for name, value in (("limits", limits), ("requests", requests)) if value}

    def variables(self, hosts: Sequence[str]) -> list[dict[str, Any]]:
        """The environment; the names of the pods, so that those that do not come can be told."""
        known = {HOSTS: ",".join(hosts), **self.environment}
        plain: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in known.items()]
        for name, place in self.secrets.items():
            secret, _, entry = place.partition("/")
            plain.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": entry}}})
        return plain

    def volume_list(self) -> list[dict[str, Any]]:
        """The recipe, memory that processes share, and the claims."""
        claims = [
            {"name": f"claim-{index}", "persistentVolumeClaim": {"claimName": claim}}
            for index, claim in enumerate(self.volumes)
        ]
        # NCCL and data workers share memory, and a container has 64 MB of it by default.
        shared = {"name": "shared-memory", "emptyDir": {"medium": "Memory"}}
        return [{"name": "recipe", "configMap": {"name": self.name}}, shared, *claims]

    def mount_list(self) -> list[dict[str, Any]]:
        """Where they are in the container."""
        claims = [{"name": f"claim-{index}", "mountPath": path} for index, path in enumerate(self.volumes.values())]
        recipe = {"name": "recipe", "mountPath": RECIPE_FOLDER, "readOnly": True}
        return [recipe, {"name": "shared-memory", "mountPath": "/dev/shm"}, *claims]


def job_name(run_name: str) -> str:
    """A name that Kubernetes takes: lower-case letters, digits and dashes, beginning with a letter."""
    name = re.sub(r"[^a-z0-9]+", "-", run_name.lower()).strip("-")
    return (name if name[:1].isalpha() else f"run-{name}")[:MAX_NAME].rstrip("-")


def job_manifest(kind: str, job: KubernetesJob, agents: Agents, recipe: str, words: Sequence[str]) -> str:
    """ConfigMap and job as two YAML documents.

    Args:
        kind: pytorchjob or trainjob.
        job: what it asks for.
        agents: what torchrun starts.
        recipe: text of the recipe, which every pod finds as `/etc/vlmforge/recipe.yaml`.
        words: of vlmforge's command after `recipe=`.
    """
    if kind == "pytorchjob":
        hosts = [f"{job.name}-master-0", *(f"{job.name}-worker-{number}" for number in range(agents.num_nodes - 1))]
        host = hosts[0]
    else:
        hosts = [f"{job.name}-node-0-{number}" for number in range(agents.num_nodes)]
        host = f"{hosts[0]}.{job.name}"
    train = ["train", f"recipe={RECIPE_FOLDER}/recipe.yaml", *words]
    command = agents.command(agent_program("python3"), f"{host}:{job.port}", train)
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": job.metadata(),
        "data": {"recipe.yaml": recipe},
    }
    make = _pytorch_job if kind == "pytorchjob" else _train_job
    documents = [config_map, make(job, agents, command, job.variables(hosts))]
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120, explicit_start=True)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such, and what stands twice twice."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never refer to another place: pods of both roles are written out."""
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """A text, in a block of its own lines if it has some."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Dumper.add_representer(str, _Dumper.represent_str)


def _pytorch_job(
    job: KubernetesJob, agents: Agents, command: list[str], variables: list[dict[str, Any]]
) -> dict[str, Any]:
    container = {
        "name": "pytorch",
        "image": job.image,
        "command": command,
        "env": variables,
        "resources": job.resources(),
        "volumeMounts": job.mount_list(),
    }
    restart = "OnFailure" if agents.max_restarts else "Never"
    pod = {
        # Before a pod is killed its ranks save, and then their agent tells how it went.
        "terminationGracePeriodSeconds": agents.stop_seconds + FAREWELL_SECONDS,
        **job.pod,
        "containers": [container],
        "volumes": job.volume_list(),
    }
    template = {"spec": pod}
    counts = {"Master": 1, "Worker": agents.num_nodes - 1}
    replicas = {
        role: {"replicas": count, "restartPolicy": restart, "template": template}
        for role, count in counts.items()
        if count
    }
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": job.metadata(),
        "spec": {
            "nprocPerNode": str(agents.processes_per_node),
            # Pods stay when the job has failed, so that their logs can be read.
            "runPolicy": {"cleanPodPolicy": "None", "backoffLimit": agents.max_restarts},
            "pytorchReplicaSpecs": replicas,
        },
    }


def _train_job(
    job: KubernetesJob, agents: Agents, command: list[str], variables: list[dict[str, Any]]
) -> dict[str, Any]:
    container = {"name": "node", "volumeMounts": job.mount_list()}
    pods = {"spec": {**job.pod, "volumes": job.volume_list(), "containers": [container]}}
    node = {"name": "node", "template": {"spec": {"template": pods}}}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": job.metadata(),
        "spec": {
            "runtimeRef": {"name": RUNTIME},
            "trainer": {
                "image": job.image,
                "command": command,
                "env": variables,
                "numNodes": agents.num_nodes,
                "numProcPerNode": agents.processes_per_node,
                "resourcesPerNode": job.resources(),
            },
            "runtimePatches": [
                {
                    "manager": "vlmforge/launch",
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [node]}}},
                }
            ],
        },
    }
