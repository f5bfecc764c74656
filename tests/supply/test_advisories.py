"""What `make audit` makes of pip-audit's answers. A stand-in answers, for advisories change from day to day."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.supply.audit import CANARY, NONE, SOME, UNKNOWN
from tests.supply.declared import ROOT

FLAW = {"id": "PYSEC-2026-1", "fix_versions": ["99.1"], "aliases": [], "description": ""}
# Knows advisories against what lies in KNOWN, by a word of the requirements file; without KNOWN the network is down.
STAND_IN = """#!{python}
import json, pathlib, sys
known = {known!r}
if known is None:
    sys.exit("ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed")
asked = pathlib.Path(sys.argv[sys.argv.index("--requirement") + 1]).read_text().split()
lines = [line.partition("==") for line in asked if "==" in line]
found = [dict(name=name, version=at, vulns=known.get(f"{{name}}=={{at}}", [])) for name, _, at in lines]
print(json.dumps(dict(dependencies=found, fixes=[])))
sys.exit(any(each["vulns"] for each in found))
"""


def audit(folder: Path, known: dict[str, list[object]] | None) -> subprocess.CompletedProcess[str]:
    program = folder / "pip-audit"
    program.write_text(STAND_IN.format(python=sys.executable, known=known))
    program.chmod(0o755)
    command = [sys.executable, "-m", "tests.supply.audit", str(program)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_no_advisory_against_any_pin_is_well(tmp_path: Path) -> None:
    done = audit(tmp_path, {CANARY.strip(): [FLAW]})
    assert (done.returncode, done.stderr) == (NONE, "")
    assert done.stdout.splitlines() == [
        "requirements.txt: 0 advisories",
        "benchmarks/requirements.txt: 0 advisories",
        "tests/supply/requirements.txt: 0 advisories",
        "floors of pyproject.toml: 0 advisories",
    ]


@pytest.mark.parametrize("release", ["safetensors==0.8.0", "safetensors==0.8"], ids=["a pin", "a floor"])
def test_an_advisory_fails_and_says_what_mends_it(tmp_path: Path, release: str) -> None:
    done = audit(tmp_path, {CANARY.strip(): [FLAW], release: [FLAW]})
    assert done.returncode == SOME
    assert f"safetensors {release.partition('==')[2]}: PYSEC-2026-1, mended in 99.1" in done.stdout


@pytest.mark.parametrize("known", [None, {}], ids=["no network", "an index that knows of no advisory at all"])
def test_no_answer_is_never_taken_for_a_good_one(tmp_path: Path, known: dict[str, list[object]] | None) -> None:
    done = audit(tmp_path, known)
    assert done.returncode == UNKNOWN
    assert "NOT AUDITED" in done.stderr
    assert done.stdout == ""
