"""Every number of a JSON value, and a change of one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

Path = tuple[Any, ...]


def numbers(value: Any, path: Path = ()) -> Iterator[Path]:
    """Paths of the numbers in a value; of a list's items, those of the first alone. Indices of rows are no measurement."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield from numbers(value[0], (*path, 0))
    elif isinstance(value, int | float) and not isinstance(value, bool) and path[-1] not in ("index", "worst"):
        yield path


def bumped(value: Any, path: Path) -> Any:
    """A copy in which the number at ``path`` is larger by 1."""
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] += 1
    return changed
