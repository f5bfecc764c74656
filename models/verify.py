"""Check an evidence bundle of the AMUN service: python verify.py BUNDLE [--key KEY] [--checkpoint FILE]

One file on purpose: it needs the standard library and `cryptography`, nothing of the service, no network. BUNDLE is the
folder or the zip that was downloaded. KEY is a file of public keys (JWKS, JWK or PEM) from a source that the reader
trusts; a key that came with the bundle would prove nothing.

Exit status: 0 everything was verified against a trusted key, 1 something is wrong, 2 bundle, key or checkpoint could
not be read, 3 no key was given and what could be checked without one is right.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import stat
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
except ImportError:
    if __name__ != "__main__":
        raise
    print("This needs the package cryptography: pip install cryptography", file=sys.stderr)
    raise SystemExit(2) from None

ENVELOPE = "envelope.json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
AUDIT_REPORT = "urn:amun:audit-report:1"
ERASURE_CERTIFICATE = "urn:amun:erasure-certificate:1"
# What each kind of evidence must hold; the first file is the document itself.
FILES = {
    AUDIT_REPORT: ("report.json", "report.pdf", "samples.csv"),
    ERASURE_CERTIFICATE: ("certificate.json", "certificate.pdf", "samples.csv"),
}
CHECKPOINT = ".safetensors"
UNSIGNED = frozenset({ENVELOPE, "verify.py", "README.txt"})

VERIFIED, WRONG, UNREADABLE, INTEGRITY_ONLY = 0, 1, 2, 3
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SHA256 = re.compile(r"[0-9a-f]{64}")
MOST_ENTRIES = 64
MOST_JSON = 64 << 20
MOST_BYTES = 16 << 30  # of a file that is only hashed
CHUNK = 1 << 20
SAFE_INTEGER = (1 << 53) - 1
SYMLINK = "it is a link"

NOT_PROVED = (
    "the time: a signature holds no clock, and the dates are the issuer's own",
    "that the verdict is right beyond the attacks, tolerances and limits that the document lists",
    "that storage media were sanitised: files were overwritten and deleted, nothing more",
    "that no copy is left elsewhere, such as back-ups or checkpoints that were handed out",
    "that the key belongs to whom you think: that trust is yours",
    "that this verify.py is genuine, where it came with the bundle: take it from a source you trust if in doubt",
)


class Wrong(Exception):
    """A file is not what was signed; says which and why."""

    def __init__(self, file: str, why: str) -> None:
        super().__init__(f"{file}: {why}")
        self.file = file
        self.why = why


class Unreadable(Exception):
    """Bundle, key or checkpoint cannot be read; the message says why."""


@dataclass
class Result:
    """``status`` is the exit status, ``wrong`` names each file that failed with the reason, ``lines`` is for people."""

    status: int = VERIFIED
    lines: list[str] = field(default_factory=list)
    wrong: list[tuple[str, str]] = field(default_factory=list)

    def right(self, line: str) -> None:
        self.lines.append(f"ok           {line}")

    def skipped(self, line: str) -> None:
        self.lines.append(f"not checked  {line}")

    def failed(self, error: Wrong) -> None:
        self.status = WRONG
        self.wrong.append((error.file, error.why))
        self.lines.append(f"WRONG        {error}")


def verify(bundle: Path, keys: Sequence[Path] = (), checkpoint: Path | None = None) -> Result:
    """Check a folder or zip against the public keys in ``keys``. Raises nothing for bad input: the result says it."""
    result = Result()
    try:
        trusted = _trusted(bundle, keys)
        with _opened(bundle) as entries:
            _check(entries, trusted, checkpoint, result)
    except Unreadable as error:
        return Result(UNREADABLE, [f"UNREADABLE   {error}"])
    result.lines += ["", "This does not prove:", *(f"  - {line}" for line in NOT_PROVED), ""]
    if result.status == WRONG:
        files = ", ".join(dict.fromkeys(file for file, _ in result.wrong))
        result.lines.append(f"WRONG: {files}. Do not rely on this bundle.")
    elif trusted is None:
        result.status = INTEGRITY_ONLY
        result.lines.append("INTEGRITY ONLY: the files fit together, but without --key nothing says who made them.")
    else:
        result.lines.append("VERIFIED: every signed file is here as the holder of the trusted key signed it.")
    return result


def thumbprint(public_key: bytes) -> str:
    """RFC 7638 thumbprint of a raw Ed25519 public key (RFC 8037, appendix A.3): what key ids are here."""
    jwk = {"crv": "Ed25519", "kty": "OKP", "x": _base64url(public_key)}
    return _base64url(hashlib.sha256(canonical(jwk)).digest())


def canonical(value: Any) -> bytes:
    """RFC 8785 serialisation of parsed JSON. Raises ValueError for what it cannot hold."""
    return _text(value).encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError


def pre_authentication(payload: bytes) -> bytes:
    """What DSSE signs."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Check an evidence bundle offline.",
        epilog="Exit status: 0 verified, 1 something is wrong, 2 unreadable, 3 integrity only (no key was given).",
    )
    parser.add_argument("bundle", type=Path, help="folder or zip")
    parser.add_argument(
        "--key", type=Path, action="append", default=[], help="public keys you trust: JWKS, JWK or PEM; may be repeated"
    )
    parser.add_argument("--checkpoint", type=Path, help="the model's file, if it is not in the bundle")
    given = parser.parse_args(arguments)
    return tell(verify(given.bundle, given.key, given.checkpoint))


def tell(result: Result) -> int:
    """Print the lines; returns the exit status."""
    try:
        print("\n".join(result.lines), flush=True)
    except BrokenPipeError:  # whoever read it has seen enough; the status stands. The interpreter would flush once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return result.status


def _check(entries: _Entries, trusted: dict[str, bytes] | None, checkpoint: Path | None, result: Result) -> None:
    for name, why in entries.odd:
        result.failed(Wrong(name, why))
    try:
        statement = _statement(entries, trusted, result)
    except Wrong as error:
        result.failed(error)
        result.skipped("all other files: no statement vouches for their digests")
        return
    digests: dict[str, str] = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    document = FILES[statement["predicateType"]][0]
    for name, digest in digests.items():
        if name.endswith(CHECKPOINT):
            continue
        try:
            _compare(entries, name, digest)
            result.right(f"{name}: its sha256 is the signed one")
            if name == document:
                _document(entries, name, statement["predicate"])
                result.right(f"{name}: canonical JSON, and the document that the statement names")
        except Wrong as error:
            result.failed(error)
    for name in entries.names:
        if name not in digests and name not in UNSIGNED and not name.endswith(CHECKPOINT):
            result.failed(Wrong(name, "not covered by the signature"))
    _checkpoints(entries, digests, checkpoint, result)


def _statement(entries: _Entries, trusted: dict[str, bytes] | None, result: Result) -> dict[str, Any]:
    """The statement in the envelope, its signature checked if there are trusted keys. Raises Wrong."""
    envelope = _parsed(ENVELOPE, entries.read(ENVELOPE))
    _form(envelope, {"payload", "payloadType", "signatures"}, "a DSSE envelope")
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise Wrong(ENVELOPE, f"its payload is not of type {PAYLOAD_TYPE}")
    if not isinstance(envelope["signatures"], list) or len(envelope["signatures"]) != 1:
        raise Wrong(ENVELOPE, "it does not hold exactly one signature")
    signature = envelope["signatures"][0]
    _form(signature, {"keyid", "sig"}, "a DSSE signature")
    payload = _decoded(envelope["payload"], "payload")
    signed = _decoded(signature["sig"], "signature")
    result.right(f"{ENVELOPE}: canonical JSON, one signature")
    _signature(trusted, signature["keyid"], signed, payload, result)
    statement: dict[str, Any] = _parsed(ENVELOPE, payload, "its payload is ")
    _form(statement, {"_type", "subject", "predicateType", "predicate"}, "an in-toto statement")
    if statement["_type"] != STATEMENT or not _has(FILES, statement["predicateType"]):
        raise Wrong(ENVELOPE, "it holds no statement of a type that this verifier knows")
    _subjects(statement)
    predicate = statement["predicate"]
    if not isinstance(predicate, dict) or predicate.get("key_id") != signature["keyid"]:
        raise Wrong(ENVELOPE, "its statement names another key than its signature")
    said = [f"{_shown(name)} {_shown(predicate[name])}" for name in sorted(predicate) if predicate[name] is not None]
    result.right(f"{ENVELOPE}: in-toto statement: {', '.join(said)}")
    return statement


def _signature(trusted: dict[str, bytes] | None, key_id: Any, signature: bytes, payload: bytes, result: Result) -> None:
    if trusted is None:
        result.skipped(f"{ENVELOPE}: the signature, since no trusted key was given (--key)")
        return
    if not _has(trusted, key_id):
        raise Wrong(ENVELOPE, f"signed with key {_shown(key_id)}, which is none of the trusted keys")
    try:
        Ed25519PublicKey.from_public_bytes(trusted[key_id]).verify(signature, pre_authentication(payload))
    except (InvalidSignature, ValueError):
        raise Wrong(ENVELOPE, f"the signature is not one of trusted key {key_id} over this payload") from None
    result.right(f"{ENVELOPE}: Ed25519 signature of trusted key {key_id}")


def _subjects(statement: dict[str, Any]) -> None:
    subjects = statement["subject"]
    if not isinstance(subjects, list) or not 1 <= len(subjects) <= MOST_ENTRIES:
        raise Wrong(ENVELOPE, "its statement has no list of subjects")
    names = []
    for subject in subjects:
        _form(subject, {"name", "digest"}, "a subject")
        _form(subject["digest"], {"sha256"}, "a subject's digest")
        if not _fits(PLAIN_NAME, subject["name"]) or not _fits(SHA256, subject["digest"]["sha256"]):
            raise Wrong(ENVELOPE, "a subject has no plain name or no sha256")
        names.append(subject["name"])
    if len(set(names)) < len(names) or UNSIGNED & set(names):
        raise Wrong(ENVELOPE, "its statement names a subject twice, or the envelope itself")
    lacking = [name for name in FILES[statement["predicateType"]] if name not in names]
    if lacking:
        raise Wrong(ENVELOPE, f"its statement does not cover {', '.join(lacking)}")


def _document(entries: _Entries, name: str, predicate: dict[str, Any]) -> None:
    document = _parsed(name, entries.read(name))
    head = document.get("document") if isinstance(document, dict) else None
    if not isinstance(head, dict) or not isinstance(head.get("id"), str):
        raise Wrong(name, "it has no document.id")
    if head["id"] != predicate.get("document_id"):
        raise Wrong(name, "its document.id is not the one that the statement names")
    for key in ("kind", "edition", "issued_at", "supersedes", "key_id"):
        if key in head and key in predicate and head[key] != predicate[key]:
            raise Wrong(name, f"its document.{key} is not the one that the statement names")


def _checkpoints(entries: _Entries, digests: dict[str, str], given: Path | None, result: Result) -> None:
    """Checkpoints may be left out of a bundle: they are large, and not for everybody who may read the report."""
    signed = {name: digest for name, digest in digests.items() if name.endswith(CHECKPOINT)}
    files: list[tuple[str, Path | None]] = [(name, None) for name in entries.names if name.endswith(CHECKPOINT)]
    if given is not None:
        files.append((_shown(given.name), given))
    found: set[str] = set()
    for name, path in files:
        allowed = [signed[name]] if path is None and name in signed else list(signed.values())
        try:
            digest = entries.sha256(name) if path is None else _sha256_of(path)
            if digest not in allowed:
                raise Wrong(name, f"its sha256 is {digest}, which is not that of a signed checkpoint")
        except Wrong as error:
            result.failed(error)
            continue
        found.add(digest)
        result.right(f"{name}: its sha256 is that of the signed checkpoint")
    for name, digest in signed.items():
        if digest not in found:
            result.skipped(f"{name}: not in the bundle (--checkpoint FILE checks it); signed sha256 {digest}")


def _compare(entries: _Entries, name: str, digest: str) -> None:
    found = entries.sha256(name)
    if found != digest:
        raise Wrong(name, f"its sha256 is {found}, but {digest} was signed")


class _Entries:
    """The plain files of a bundle by name. ``odd`` are the other entries, which are never opened, with the reason."""

    def __init__(self, found: Iterable[tuple[str, str | None, Any]], opening: Any) -> None:
        self.odd: list[tuple[str, str]] = []
        self._sources: dict[str, Any] = {}
        self._opening = opening
        for count, (name, why, source) in enumerate(found):
            if count >= MOST_ENTRIES:
                raise Unreadable(f"the bundle has more than {MOST_ENTRIES} entries")
            if why is None and not PLAIN_NAME.fullmatch(name):
                why = "it is no plain name of a file"
            if why is None and name in self._sources:
                why = "it is there twice"
            if why is None:
                self._sources[name] = source
            else:
                self.odd.append((_shown(name), f"{why}: not covered by the signature"))
        self.names = sorted(self._sources)

    def read(self, name: str) -> bytes:
        """Raises Wrong."""
        return b"".join(self._blocks(name, MOST_JSON))

    def sha256(self, name: str) -> str:
        """Raises Wrong."""
        digest = hashlib.sha256()
        for block in self._blocks(name, MOST_BYTES):
            digest.update(block)
        return digest.hexdigest()

    def _blocks(self, name: str, most: int) -> Iterator[bytes]:
        if name not in self._sources:
            raise Wrong(name, "missing from the bundle")
        read = 0
        try:
            with self._opening(self._sources[name]) as file:
                while block := file.read(CHUNK):
                    read += len(block)
                    if read > most:
                        raise Wrong(name, f"larger than {most} bytes")
                    yield block
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise Wrong(name, f"cannot be read ({type(error).__name__})") from None


@contextmanager
def _opened(bundle: Path) -> Iterator[_Entries]:
    """A folder or a zip; nothing is unpacked to disk. Raises Unreadable."""
    with ExitStack() as stack:
        try:
            if bundle.is_dir():
                entries = _Entries(_in_folder(bundle), lambda path: path.open("rb"))
            else:
                archive = stack.enter_context(zipfile.ZipFile(bundle))
                entries = _Entries(_in_zip(archive), archive.open)
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            why = type(error).__name__
            raise Unreadable(f"{_shown(bundle)} is no folder and no zip that can be read ({why})") from None
        yield entries


def _in_folder(folder: Path) -> Iterator[tuple[str, str | None, Any]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            why = None
            if entry.is_symlink():
                why = SYMLINK
            elif not entry.is_file(follow_symlinks=False):
                why = "it is no plain file"
            yield entry.name, why, folder / entry.name


def _in_zip(archive: zipfile.ZipFile) -> Iterator[tuple[str, str | None, Any]]:
    for info in archive.infolist():
        why = None
        if info.is_dir():
            why = "it is no plain file"
        elif stat.S_ISLNK(info.external_attr >> 16):
            why = SYMLINK
        elif info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            why = "it is encrypted or packed in an unusual way"
        yield info.orig_filename, why, info  # the name before zipfile cut it at a NUL


def _trusted(bundle: Path, paths: Sequence[Path]) -> dict[str, bytes] | None:
    """Raw public keys by thumbprint; None where no key was given. Raises Unreadable."""
    if not paths:
        return None
    trusted = {}
    for path in paths:
        try:
            if bundle.resolve() in path.resolve().parents:
                raise Unreadable(
                    f"key file {_shown(path)} lies in the bundle: a key that comes with what it signed proves nothing. "
                    "Fetch one from a source you trust and keep it outside"
                )
            with path.open("rb") as file:
                content = file.read(CHUNK)
            found = _pem(content) if content.lstrip().startswith(b"-----BEGIN") else _jwks(content)
        except (OSError, RuntimeError, ValueError, UnsupportedAlgorithm) as error:
            why = _shown(error) if isinstance(error, ValueError) else type(error).__name__
            raise Unreadable(f"key file {_shown(path)} holds no public key that can be read ({why})") from None
        if not found:
            raise Unreadable(f"key file {_shown(path)} holds no Ed25519 public key")
        trusted.update({thumbprint(raw): raw for raw in found})
    return trusted


def _pem(content: bytes) -> list[bytes]:
    key = serialization.load_pem_public_key(content)
    return [key.public_bytes_raw()] if isinstance(key, Ed25519PublicKey) else []


def _jwks(content: bytes) -> list[bytes]:
    given = _json(content)
    if not isinstance(given, dict):
        raise ValueError("no JWKS and no JWK")
    keys = given.get("keys", [given])
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise ValueError("its keys are no list of JWKs")
    found = []
    for key in keys:
        if key.get("kty") == "OKP" and key.get("crv") == "Ed25519":
            raw = base64.urlsafe_b64decode(f"{key.get('x')}=")
            if len(raw) != 32 or _base64url(raw) != key.get("x"):
                raise ValueError("x is not the base64url form of 32 bytes")
            found.append(raw)
    return found


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(CHUNK):
                digest.update(block)
    except OSError as error:
        raise Unreadable(f"checkpoint {_shown(path)} cannot be read ({type(error).__name__})") from None
    return digest.hexdigest()


def _json(content: bytes) -> Any:
    """Strict JSON. Raises ValueError; for a key that is there twice, too."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            raise ValueError("a key is there twice")
        return made

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(content.decode(), object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _parsed(file: str, content: bytes, what: str = "") -> Any:
    """JSON that is in its canonical form, byte for byte. Raises Wrong."""
    try:
        value = _json(content)
        same = canonical(value) == content
    except (ValueError, OverflowError, RecursionError) as error:
        raise Wrong(file, f"{what}not JSON that can be read ({_shown(error)})") from None
    if not same:
        raise Wrong(file, f"{what}not in canonical form (RFC 8785): it was written anew or changed")
    return value


def _text(value: Any) -> str:
    if isinstance(value, dict):
        # RFC 8785, section 3.2.3: sorted by UTF-16 code units.
        items = sorted(value.items(), key=lambda item: item[0].encode("utf-16-be"))
        return "{" + ",".join(f"{_text(key)}:{_text(item)}" for key, item in items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, float) or (isinstance(value, int) and abs(value) > SAFE_INTEGER):
        return _number(float(value))
    return json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    """ECMAScript's Number::toString, which RFC 8785 asks for; Python's own form differs in exponents and in 1.0."""
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError("a number is out of range")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    _, parts, exponent = Decimal(repr(abs(value))).as_tuple()
    written = "".join(map(str, parts))
    digits = written.rstrip("0")
    point = len(written) + int(exponent)
    if 0 < point <= 21:
        whole, rest = digits[:point].ljust(point, "0"), digits[point:]
        return sign + whole + (f".{rest}" if rest else "")
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    mantissa = digits[0] + (f".{digits[1:]}" if digits[1:] else "")
    return f"{sign}{mantissa}e{point - 1:+d}"


def _form(value: Any, keys: set[str], what: str) -> None:
    if not isinstance(value, dict) or set(value) != keys:
        raise Wrong(ENVELOPE, f"it does not have the form of {what}")


def _decoded(text: Any, what: str) -> bytes:
    """Base64 in its one canonical form. Raises Wrong."""
    try:
        content = base64.b64decode(text, validate=True)
    except (TypeError, ValueError):
        content = None
    if content is None or base64.b64encode(content).decode() != text:
        raise Wrong(ENVELOPE, f"its {what} is not base64 in canonical form")
    return content


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _has(known: dict[str, Any], value: Any) -> bool:
    return isinstance(value, str) and value in known


def _fits(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _shown(value: object) -> str:
    """Foreign text without anything that a terminal would obey."""
    text = str(value)
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text[:160])


if __name__ == "__main__":
    raise SystemExit(main())
