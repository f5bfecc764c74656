"""Known advisories against every pin and every floor: ``python -m tests.supply.audit PATH_OF_PIP_AUDIT``.

Exit status 0: none. 1: some, each printed with the releases that mend it. 75: the advisory service did not answer, or not
for all; nothing is known then. A service that answers without knowing anything would look like a clean bill: a release that
has advisories is asked about first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.supply.declared import ROOT
from tests.supply.floors import text

NONE, SOME, UNKNOWN = 0, 1, 75  # 75: EX_TEMPFAIL, try again
CANARY = "pillow==12.2.0\n"  # CVE-2026-59197 and others
PINS = (
    ROOT / "requirements.txt",
    ROOT / "benchmarks" / "requirements.txt",
    ROOT / "tests" / "supply" / "requirements.txt",
)
SECONDS = 300.0  # for one list


class Unknown(Exception):
    """The advisory service did not answer for every release that it was asked about."""


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("pip_audit")
    asked.add_argument("--service", default="pypi", help="pypi or osv, see pip-audit")
    arguments = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        canary, floors = Path(folder) / "canary.txt", Path(folder) / "floors.txt"
        canary.write_text(CANARY)
        floors.write_text(text())
        try:
            if not advisories(arguments.pip_audit, arguments.service, canary):
                raise Unknown(f"it knows of no advisory against {CANARY.strip()}, which has several")
            lists = {str(file.relative_to(ROOT)): file for file in PINS} | {"floors of pyproject.toml": floors}
            found = {name: advisories(arguments.pip_audit, arguments.service, file) for name, file in lists.items()}
        except Unknown as why:
            print(f"NOT AUDITED: the advisory service {arguments.service!r} gives no answer: {why}", file=sys.stderr)
            return UNKNOWN
    for name, lines in found.items():
        print("\n".join([f"{name}: {len(lines)} advisories", *lines]))
    return SOME if any(found.values()) else NONE


def advisories(pip_audit: str, service: str, file: Path) -> list[str]:
    """One line an advisory against what ``file`` pins. Unknown: not every release could be looked up."""
    command = [pip_audit, "--strict", "--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    command += ["--vulnerability-service", service, "--requirement", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        answer: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise Unknown(f"{file.name}: none within {SECONDS:.0f} seconds") from error
    except json.JSONDecodeError as error:  # --strict: one release that is not known, and nothing is told of the others
        raise Unknown(f"{file.name}: {_last(done.stderr)}") from error
    return [
        f"  {each['name']} {each['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'none yet'}"
        for each in answer["dependencies"]
        for flaw in each["vulns"]
    ]


def _last(said: str) -> str:
    return (said.strip().splitlines() or ["pip-audit said nothing"])[-1]


if __name__ == "__main__":
    sys.exit(main())
