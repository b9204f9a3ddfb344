"""Rules of `launch.environment` and `launch.secrets`: a recipe may tune its ranks, not decide what code they load."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vlmforge.config.encode import scalar_text
from vlmforge.config.rules.finding import Finding, Subject

NAME = r"[A-Za-z_]\w*"
# Variables that name programs, libraries or folders of code, which a recipe that somebody has sent must not.
CODE = (
    r"LD_.*|DYLD_.*|PYTHON.*|PATH|HOME|BASH_ENV|ENV|IFS|CC|CXX|.*_PLUGIN.*|.*PRELOAD.*|.*_CONF_FILE|.*EXTENSIONS?_.*"
    r"|HF_ENDPOINT|PIP_.*|GIT_.*|TORCHINDUCTOR_.*|TRITON_.*|CUDA_HOME"
)
# Variables that say where a rank is.
PLACE = (
    r"(GROUP_|LOCAL_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|SLURM_.*|PET_.*|TORCHELASTIC_.*|VLMFORGE_.*"
)


def check_environment(subject: Subject) -> Iterator[Finding]:
    """Names are names, values are one line, and neither code nor the place of a rank is named."""
    launch = subject.config.launch
    for key, variables in (("launch.environment", launch.environment), ("launch.secrets", launch.secrets)):
        for name, value in variables.items():
            reason = _reason(name, value, is_secret=key == "launch.secrets")
            if reason is not None:
                yield Finding((key,), f"{key}.{name} = {scalar_text(value)} {reason[0]}", reason[1])
    for name in sorted(launch.environment.keys() & launch.secrets.keys()):
        yield Finding(
            ("launch.secrets", "launch.environment"),
            f"{name} stands in launch.environment and in launch.secrets",
            f"~launch.environment.{name}",
        )


def _reason(name: str, value: str, *, is_secret: bool) -> tuple[str, str] | None:
    """What is wrong, and what helps; None: nothing."""
    if not re.fullmatch(NAME, name, re.ASCII):
        return "must be a name of letters, digits and underscores", "'launch.environment={NCCL_DEBUG: INFO}'"
    if re.fullmatch(CODE, name, re.IGNORECASE | re.ASCII):
        return "names code to run, or where to find it", "set it in the image, or in the shell that hands the job in"
    if re.fullmatch(PLACE, name, re.ASCII):
        return "is set by what starts the ranks", "remove it"
    if is_secret and not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[\w.-]+", value, re.ASCII):
        return "must be the name of a secret and of an entry in it", "'launch.secrets={HF_TOKEN: hub/token}'"
    return None if value.isprintable() else ("holds a character that cannot be printed", "remove it")
