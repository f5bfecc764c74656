"""Every dependency at its lowest declared version, as constraints for pip: ``python -m tests.supply.floors [NAME ...]``.

pip resolves to the newest that constraints allow, so that they must say ``==``. A NAME keeps the version that
requirements.txt pins: torch, say, whose floor comes in CUDA builds alone.
"""

from __future__ import annotations

import sys
from collections.abc import Collection

from tests.supply.declared import floors, pins


def text(pinned: Collection[str] = ()) -> str:
    """One line a dependency. KeyError: a name in ``pinned`` has no pin."""
    versions = floors() | {name: pins()[name] for name in pinned}
    return "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


if __name__ == "__main__":
    sys.stdout.write(text(sys.argv[1:]))
