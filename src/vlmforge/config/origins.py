"""Where every value of a config was said: `file:line`, `command line: key=value`, or a scale."""

from __future__ import annotations

from collections import UserDict

from vlmforge.config.plain import is_section, items_of


class Origins(UserDict[str, str]):
    """Dotted path to the text that names its source; `data.train.0.path` for items of lists."""

    def __init__(self, fallback: str) -> None:
        """`fallback` is shown for what nobody said, such as a missing key: the recipe's first line."""
        super().__init__()
        self.fallback = fallback

    def where(self, path: str) -> str:
        """The source of `path`, else of something in it, else of the nearest section around it."""
        if path not in self.data:
            inside = (source for known, source in self.data.items() if known.startswith(f"{path}."))
            found = next(inside, None)
            if found is not None:
                return found
        while path:
            if path in self.data:
                return self.data[path]
            path = path.rpartition(".")[0]
        return self.fallback

    def forget(self, path: str) -> None:
        """Drop `path` and everything below it."""
        below = f"{path}."
        for known in [known for known in self.data if known == path or known.startswith(below)]:
            del self.data[known]

    def record(self, path: str, value: object, source: str) -> None:
        """Say that `path`, with everything in `value`, comes from `source`."""
        if not is_section(value):
            self.forget(path)
        self.data[path] = source
        for name, item in items_of(value):
            self.record(f"{path}.{name}", item, source)
