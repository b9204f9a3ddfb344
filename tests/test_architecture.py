"""Who may import whom, and which library has which door; read from the sources, lazy imports included."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import vlmforge

PACKAGE = Path(vlmforge.__file__).parent

# From the top down; what stands in one line are siblings that do not import each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("cli", "__main__"),
    ("commands",),
    ("serve", "plan", "train", "preview"),
    ("evaluate",),
    ("generate",),
    ("models", "data"),
    ("checkpoint",),
    ("parallel", "observe"),
    ("config",),
    ("errors",),
)
LEVEL = {name: len(LAYERS) - index for index, names in enumerate(LAYERS) for name in names}

# The package itself, for its version and its folder; and the words of a command, which `cli` makes.
ALWAYS_ALLOWED = {"__init__"}

# Library (or part of one) to the files and folders that may import it.
DOORS: dict[str, tuple[str, ...]] = {
    "hydra": ("config/compose.py",),
    "omegaconf": ("config/compose.py",),
    "transformers": ("models", "generate", "serve"),
    "peft": ("models",),
    "datasets": ("data/sources",),
    "webdataset": ("data/sources",),
    "PIL": ("data/media.py",),
    "av": ("data/film.py",),
    "sklearn": ("data/digits.py",),
    "torch.distributed": ("parallel", "checkpoint"),
}

FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [path.relative_to(PACKAGE).as_posix() for path in FILES]


def imported_names(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere in it, except for type checking alone."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(module: str) -> str:
    """`config` for `vlmforge.config.schema`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (parts[1] in LEVEL) else "__init__"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_imports_only_what_stands_below_it(name: str) -> None:
    own = name.split("/")[0].removesuffix(".py")
    if own == "__init__":
        return
    assert own in LEVEL, f"{own} has no place in the direction of imports"
    for module in imported_names(PACKAGE / name):
        if module.split(".")[0] != "vlmforge":
            continue
        other = layer_of(module)
        if other != own and other not in ALWAYS_ALLOWED and {own, other} != {"cli", "__main__"}:
            assert LEVEL[other] < LEVEL[own], f"{name} imports {module}"


@pytest.mark.parametrize("name", NAMES)
def test_a_library_has_one_door(name: str) -> None:
    for module in imported_names(PACKAGE / name):
        for library, doors in DOORS.items():
            if module == library or module.startswith(f"{library}."):
                is_door = any(name == door or name.startswith(f"{door}/") for door in doors)
                assert is_door, f"{name} imports {module}; only {', '.join(doors)} may"


def test_nothing_private_of_hydra_is_used() -> None:
    for path in FILES:
        assert not any(module.startswith("hydra._internal") for module in imported_names(path)), path


def test_there_is_no_drawer_for_leftovers() -> None:
    assert not [name for name in NAMES if Path(name).stem in ("utils", "helpers", "misc", "common")]
