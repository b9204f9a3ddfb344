"""`vlmforge show`: the composed config as a file that is itself a recipe."""

from __future__ import annotations

from vlmforge.commands.configuring import LoadedRecipe, load_config
from vlmforge.commands.request import Request
from vlmforge.config.encode import encode, to_yaml
from vlmforge.errors import EXIT_OK


def run(request: Request) -> int:
    """Print the recipe with every value's origin; data is not looked at.

    Raises:
        ConfigError: the recipe is wrong.
    """
    print(render(load_config(request, with_data=False)), end="")
    return EXIT_OK


def render(loaded: LoadedRecipe) -> str:
    """YAML that composes to the same config, every value with a comment that says where it came from."""

    def comment(path: str) -> str:
        return " ".join(loaded.origins.get(path, "default").split())

    return f"# {loaded.recipe_name}, composed\n\n" + to_yaml(encode(loaded.config), comment)
