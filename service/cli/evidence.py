"""Bundles: fetched, and checked at once with the verifier that is in each of them too."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from models import verify as verifier
from service.cli.client import Api
from service.cli.output import note, print_json

TrustedKeys = Annotated[
    list[Path] | None,
    typer.Option("--trusted-keys", help="Public keys from a source you trust: JWKS, JWK or PEM. May be repeated."),
]
VERDICTS = {
    verifier.VERIFIED: "verified",
    verifier.WRONG: "wrong",
    verifier.UNREADABLE: "unreadable",
    verifier.INTEGRITY_ONLY: "integrity_only",
}
SAME_SOURCE = (
    "INTEGRITY ONLY: the keys came from the service that the bundle came from. Whoever could forge the one could forge "
    "the other: check with --trusted-keys FILE, from a source you trust."
)


def checked(api: Api, bundle: Path, trusted: Sequence[Path] | None, checkpoint: Path | None = None) -> verifier.Result:
    """What the verifier finds. Without trusted keys it checks the signature against those that the service publishes,
    and a bundle that is right is integrity only."""
    if trusted:
        return verifier.verify(bundle, trusted, checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "jwks.json"
        keys.write_bytes(api.get("/.well-known/jwks.json").content)
        result = verifier.verify(bundle, [keys], checkpoint)
    result.lines = [line.replace("of trusted key", "of the service's own key") for line in result.lines]
    if result.status == verifier.VERIFIED:
        result.status = verifier.INTEGRITY_ONLY
        result.lines[-1] = SAME_SOURCE
    return result


def told(api: Api, result: verifier.Result) -> None:
    """The result, on standard output."""
    if api.machine:
        wrong = [{"file": file, "why": why} for file, why in result.wrong]
        print_json({"status": result.status, "verdict": VERDICTS[result.status], "wrong": wrong, "lines": result.lines})
        return
    print("\n".join(result.lines))


def summed_up(bundle: Path, result: verifier.Result) -> None:
    """Where the bundle is and whether to rely on it, on standard error."""
    note(f"{bundle}: {VERDICTS[result.status].replace('_', ' ')}")
    if result.status == verifier.INTEGRITY_ONLY:
        note(SAME_SOURCE)
    for file, why in result.wrong:
        note(f"  WRONG {file}: {why}")


def folder(out: Path | None) -> Path:
    """Where files go: made if need be. Raises typer.BadParameter."""
    chosen = out or Path()
    try:
        chosen.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"--out {chosen} is no folder that can be made: {error.strerror}") from None
    return chosen


@contextmanager
def kept_in(out: Path | None) -> Iterator[Path]:
    """``out``, or a folder that goes afterwards."""
    if out is not None:
        yield folder(out)
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


Out = Annotated[Path | None, typer.Option("--out", help="Folder to save to; default: here.")]


def part(bundle: Path, name: str) -> bytes:
    """One file of a bundle that was checked."""
    with zipfile.ZipFile(bundle) as opened:
        return opened.read(name)
