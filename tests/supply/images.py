"""The pinned versions of each image: ``python -m tests.supply.images`` writes requirements.service.txt and .worker.txt.

An image holds what its extra and models/ need, with all that these need in turn, and what builds the package; each at the
version that requirements.txt pins and the tests ran with.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.supply.declared import BOTH, ROOT, build_requirements, closure, declared, further, pins

IMAGES = ("service", "worker")
HEAD = "# Made from pyproject.toml and requirements.txt by `make requirements`: what the {image} image installs.\n"


def path(image: str) -> Path:
    return ROOT / f"requirements.{image}.txt"


def python() -> str:
    """The version of the images' Python, which need not be that of the tests."""
    (found,) = re.findall(r"^FROM python:([0-9.]+)-", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return str(found)


def text(image: str) -> str:
    """The file's content. KeyError: a package that is needed has no pin in requirements.txt."""
    groups = declared()
    wanted = [each for group in (BOTH, image, *further()) for each in groups[group]]
    needed = closure([*wanted, *build_requirements()], python_full_version=python())
    pinned = pins()
    return HEAD.format(image=image) + "".join(f"{name}=={pinned[name]}\n" for name in sorted(needed))


def main() -> int:
    for image in IMAGES:
        path(image).write_text(text(image))
    return 0


if __name__ == "__main__":
    sys.exit(main())
