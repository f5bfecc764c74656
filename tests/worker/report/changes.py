"""Every number and every other value of a JSON document, and a change of one."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

Path = tuple[Any, ...]

# Words of a closed list, each with another of its list; hexadecimal digits and times are changed in their last digit.
OTHER_WORDS = {
    "released": "quarantined",
    "quarantined": "released",
    "inconclusive": "pass",
    "pass": "inconclusive",
    "exact": "pass",
    "done": "failed",
    "trained_on": "control",
    "erased": "control",
    "primary": "secondary",
    "checkpoint": "controls",
    "reference signals": "controls",
    "pixels and names": "controls",
}
DIGITS = re.compile(r"([0-9a-f-]*[0-9a-f])([0-9a-f])|(\d{4}-\d\d-\d\dT\d\d:\d\d:\d)(\d)(\+00:00)")


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


def others(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Paths of every value that is not null, all items of lists included, each with another value of the same form."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from others(inner, (*path, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from others(inner, (*path, place))
    elif value is not None:
        yield path, "utility" if path[-1] == "cause" else another(value)


def another(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if value in OTHER_WORDS:
        return OTHER_WORDS[value]
    found = DIGITS.fullmatch(value)
    if found is None or len(value) < 16:
        return f"{value} of another kind"
    last = "1" if (found[2] or found[4]) != "1" else "2"
    return f"{found[1]}{last}" if found[2] else f"{found[3]}{last}{found[5]}"


def replaced(value: Any, path: Path, other: Any) -> Any:
    """A copy in which what is at ``path`` is ``other``."""
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = other
    return changed
