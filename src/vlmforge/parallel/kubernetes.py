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

from vlmforge.parallel.torchrun import Agents

RECIPE_FOLDER = "/etc/vlmforge"
# Names of pods are made of the job's name, and have at most 63 characters.
MAX_NAME = 40
RUNTIME = "torch-distributed"


@dataclass(frozen=True)
class KubernetesJob:
    """What a manifest asks for.

    Attributes:
        name: of the job, as `job_name` makes it.
        namespace: None: that of the user's context.
        image: of the pods; has torchrun and vlmforge on its PATH.
        gpus_per_node: of each pod; 0: none.
        cpus_per_node: of each pod; None: no request.
        volumes: claim to the path where it is mounted.
        port: where the agents meet.
    """

    name: str
    namespace: str | None
    image: str
    gpus_per_node: int
    cpus_per_node: int | None
    volumes: Mapping[str, str]
    port: int

    def metadata(self) -> dict[str, Any]:
        """Of everything in the manifest."""
        return {"name": self.name} | ({"namespace": self.namespace} if self.namespace else {})

    def resources(self) -> dict[str, Any]:
        """What each pod gets: GPUs are limits, for which requests are made equal."""
        limits = {"nvidia.com/gpu": self.gpus_per_node} if self.gpus_per_node else {}
        requests = {"cpu": self.cpus_per_node} if self.cpus_per_node else {}
        return {name: value for name, value in (("limits", limits), ("requests", requests)) if value}

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
    host = f"{job.name}-master-0" if kind == "pytorchjob" else f"{job.name}-node-0-0.{job.name}"
    train = ["train", f"recipe={RECIPE_FOLDER}/recipe.yaml", *words]
    command = agents.command(["torchrun"], f"{host}:{job.port}", train)
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": job.metadata(),
        "data": {"recipe.yaml": recipe},
    }
    make = _pytorch_job if kind == "pytorchjob" else _train_job
    documents = [config_map, make(job, agents, command)]
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


def _pytorch_job(job: KubernetesJob, agents: Agents, command: list[str]) -> dict[str, Any]:
    container = {
        "name": "pytorch",
        "image": job.image,
        "command": command,
        "resources": job.resources(),
        "volumeMounts": job.mount_list(),
    }
    restart = "OnFailure" if agents.max_restarts else "Never"
    template = {"spec": {"containers": [container], "volumes": job.volume_list()}}
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


def _train_job(job: KubernetesJob, agents: Agents, command: list[str]) -> dict[str, Any]:
    container = {"name": "node", "volumeMounts": job.mount_list()}
    pods = {"spec": {"volumes": job.volume_list(), "containers": [container]}}
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
