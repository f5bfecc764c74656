"""Evidence that is checked anywhere by one file: whatever was changed is found, and named."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope

from models import verify as verifier
from models.verify import INTEGRITY_ONLY, UNREADABLE, VERIFIED, WRONG, Result, canonical, thumbprint, verify
from service.bundle import bundle
from worker.signing import Key, sign

# RFC 8037, appendix A: an Ed25519 key and its thumbprint.
PRIVATE = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"
PUBLIC = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
THUMBPRINT = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
ID = "0192f0c1-0000-7000-8000-000000000001"
JWK = {"kty": "OKP", "crv": "Ed25519", "x": PUBLIC, "kid": THUMBPRINT, "use": "sig", "alg": "EdDSA"}
REPORT = rfc8785.dumps(
    {
        "document": {"id": ID, "kind": "audit_report", "issued_at": "2026-11-20T10:00:00+00:00"},
        "audit": {"auc": 0.5025, "p": 1e-7, "samples": 1.0, "remark": "größer als ½ \u2028"},
    }
)
PREDICATE: dict[str, Any] = {
    "document_id": ID,
    "kind": "audit_report",
    "edition": 1,
    "issued_at": "2026-11-20T10:00:00+00:00",
    "verdict": "inconclusive",
    "supersedes": None,
}
CONTENTS = {
    "report.json": REPORT,
    "report.pdf": b"%PDF-1.7\n" + bytes(range(256)) * 8,
    "samples.csv": b"sample,z\r\n" + b"".join(b"%04x,0.25\r\n" % n for n in range(300)),
    "checkpoint.safetensors": random.Random(7).randbytes(5000),
}


def key(private: bytes | None = None) -> Key:
    made = Ed25519PrivateKey.from_private_bytes(private or base64.urlsafe_b64decode(PRIVATE + "="))
    return Key.of(made)


def signed(contents: dict[str, bytes], signer: Key | None = None, **predicate: Any) -> bytes:
    subjects = [(name, hashlib.sha256(content).hexdigest()) for name, content in contents.items()]
    return sign(signer or key(), subjects, verifier.AUDIT_REPORT, {**PREDICATE, **predicate})


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}, JWK]}))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle as it is unpacked, the checkpoint beside the report."""
    made = tmp_path / "bundle"
    made.mkdir()
    for name, content in {**CONTENTS, "envelope.json": signed(CONTENTS)}.items():
        (made / name).write_bytes(content)
    return made


def files_wrong(result: Result) -> list[str]:
    return [file for file, _ in result.wrong]


def envelope_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "envelope.json").read_bytes())
    return found


def put(folder: Path, envelope: Any) -> None:
    (folder / "envelope.json").write_bytes(rfc8785.dumps(envelope))


def put_payload(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Another statement, rightly signed by the trusted key."""
    statement = json.loads(base64.b64decode(envelope_of(folder)["payload"]))
    change(statement)
    envelope = Envelope(rfc8785.dumps(statement), verifier.PAYLOAD_TYPE, {})
    envelope.sign(key().signer)
    put(folder, envelope.to_dict())


def test_a_bundle_is_verified_in_an_empty_folder_by_a_fresh_interpreter(tmp_path: Path, trusted: Path) -> None:
    place = tmp_path / "elsewhere" / "unpacked"
    place.mkdir(parents=True)
    shutil.copy(trusted, place.parent)
    documents = {name: content for name, content in CONTENTS.items() if name != "checkpoint.safetensors"}
    with zipfile.ZipFile(io.BytesIO(bundle({**documents, "envelope.json": signed(CONTENTS)}))) as archive:
        archive.extractall(place)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # An editable install would let the project in by the back door: what is imported must not come from it.
    probe = (
        "import runpy, sys\nsys.argv = ['verify.py', '.', '--key', '../jwks.json']\n"
        "try:\n    runpy.run_path('verify.py', run_name='__main__')\nexcept SystemExit as end:\n"
        "    own = {'models', 'service', 'worker', 'pydantic', 'sqlalchemy', 'securesystemslib', 'rfc8785'}\n"
        "    print('imported', sorted(own & set(sys.modules)))\n    raise\n"
    )
    for command in (["verify.py", ".", "--key", "../jwks.json"], ["-c", probe]):
        done = subprocess.run(
            [sys.executable, "-I", *command], cwd=place, env=environment, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (VERIFIED, "")
        assert "VERIFIED" in done.stdout
        assert "not checked  checkpoint.safetensors" in done.stdout
    assert "imported []" in done.stdout


def test_everything_signed_is_verified_and_what_is_not_proved_is_said(folder: Path, trusted: Path) -> None:
    result = verify(folder, [trusted])
    assert (result.status, result.wrong) == (VERIFIED, [])
    text = "\n".join(result.lines)
    for name in CONTENTS:
        assert f"ok           {name}: its sha256" in text
    for doubt in ("the time", "beyond the attacks", "sanitised", "elsewhere", "trust is yours"):
        assert doubt in text


def test_securesystemslib_verifies_the_envelope_too(folder: Path) -> None:
    envelope = Envelope.from_dict(envelope_of(folder))
    public = key().signer.public_key
    assert list(envelope.verify([public], 1)) == [THUMBPRINT]
    assert json.loads(envelope.payload)["subject"][0] == {
        "name": "report.json",
        "digest": {"sha256": hashlib.sha256(REPORT).hexdigest()},
    }


def test_the_signature_is_over_the_bytes_that_dsse_prescribes() -> None:
    # The protocol's own example, for another type of payload, has this form.
    assert verifier.pre_authentication(b"hello") == b"DSSEv1 28 application/vnd.in-toto+json 5 hello"


def test_the_id_of_a_key_is_its_rfc_7638_thumbprint() -> None:
    assert thumbprint(base64.urlsafe_b64decode(PUBLIC + "=")) == THUMBPRINT
    assert key().key_id == THUMBPRINT


def test_the_same_evidence_has_the_same_envelope() -> None:
    assert signed(CONTENTS) == signed(CONTENTS)


def test_any_flipped_bit_of_the_envelope_is_found(folder: Path, trusted: Path) -> None:
    path = folder / "envelope.json"
    original = path.read_bytes()
    for position in range(len(original)):
        for bit in range(8):
            path.write_bytes(flipped(original, position, bit))
            result = verify(folder, [trusted])
            assert (result.status, files_wrong(result)) == (WRONG, ["envelope.json"]), (position, bit)


@pytest.mark.fault(13)
@pytest.mark.parametrize("name", CONTENTS)
def test_a_flipped_bit_of_a_signed_file_is_found_and_the_file_named(name: str, folder: Path, trusted: Path) -> None:
    original = CONTENTS[name]
    for position in sorted({*range(0, len(original), 97), len(original) - 1}):
        (folder / name).write_bytes(flipped(original, position, position % 8))
        result = verify(folder, [trusted])
        assert (result.status, files_wrong(result)) == (WRONG, [name]), position


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("change", [lambda old: old + b"\n", lambda old: old[:-1], lambda old: b""])
def test_a_longer_or_shorter_file_is_found(
    name: str, change: Callable[[bytes], bytes], folder: Path, trusted: Path
) -> None:
    (folder / name).write_bytes(change(CONTENTS[name]))
    assert files_wrong(verify(folder, [trusted])) == [name]


def flipped(content: bytes, position: int, bit: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]


def test_a_foreign_key_does_not_verify(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(pem(Ed25519PrivateKey.generate()))
    result = verify(folder, [other])
    assert (result.status, files_wrong(result)) == (WRONG, ["envelope.json"])
    assert "none of the trusted keys" in result.wrong[0][1]


@pytest.mark.parametrize("form", ["jwks", "jwk", "pem", "two files"])
def test_a_trusted_key_may_come_in_any_usual_form(form: str, folder: Path, trusted: Path, tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    other.write_bytes(pem(Ed25519PrivateKey.generate()))
    own.write_bytes({"jwks": trusted.read_bytes(), "jwk": json.dumps(JWK).encode()}.get(form) or pem(key_of(key())))
    assert verify(folder, [other, own] if form == "two files" else [own]).status == VERIFIED


def test_a_key_is_known_by_its_own_thumbprint_whatever_its_kid_says(folder: Path, tmp_path: Path) -> None:
    """Somebody publishes a foreign key under the id of the real one."""
    raw = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    (tmp_path / "jwk").write_text(
        json.dumps({**JWK, "x": base64.urlsafe_b64encode(raw).decode().rstrip("="), "kid": THUMBPRINT})
    )
    assert files_wrong(verify(folder, [tmp_path / "jwk"])) == ["envelope.json"]


def pem(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def key_of(own: Key) -> Ed25519PrivateKey:
    loaded = serialization.load_pem_private_key(own.signer.private_bytes, None)
    assert isinstance(loaded, Ed25519PrivateKey)
    return loaded


def test_without_a_key_only_integrity_is_checked(folder: Path) -> None:
    result = verify(folder)
    assert (result.status, result.wrong) == (INTEGRITY_ONLY, [])
    assert "INTEGRITY ONLY" in result.lines[-1]
    assert any(line.startswith("not checked  envelope.json: the signature") for line in result.lines)


def test_without_a_key_a_changed_file_is_found_all_the_same(folder: Path) -> None:
    (folder / "samples.csv").write_bytes(b"sample,z\r\n")
    assert (verify(folder).status, files_wrong(verify(folder))) == (WRONG, ["samples.csv"])


def test_a_key_that_came_in_the_bundle_is_refused(folder: Path, trusted: Path) -> None:
    shutil.copy(trusted, folder)
    result = verify(folder, [folder / "jwks.json"])
    assert result.status == UNREADABLE
    assert "proves nothing" in result.lines[0]
    assert files_wrong(verify(folder, [trusted])) == ["jwks.json"]


@pytest.mark.parametrize("name", ["report.json", "report.pdf", "samples.csv", "envelope.json"])
def test_a_missing_file_is_named(name: str, folder: Path, trusted: Path) -> None:
    (folder / name).unlink()
    result = verify(folder, [trusted])
    assert (result.status, result.wrong) == (WRONG, [(name, "missing from the bundle")])


def test_a_file_that_nobody_signed_is_named(folder: Path, trusted: Path) -> None:
    (folder / "appendix.pdf").write_bytes(b"more")
    (folder / "folder").mkdir()
    (folder / "link.csv").symlink_to(folder / "samples.csv")
    result = verify(folder, [trusted])
    assert result.status == WRONG
    assert sorted(files_wrong(result)) == ["appendix.pdf", "folder", "link.csv"]
    assert all("not covered by the signature" in why for _, why in result.wrong)


def test_the_verifier_and_its_instructions_may_lie_beside_the_evidence(folder: Path, trusted: Path) -> None:
    for name in ("verify.py", "README.txt"):
        (folder / name).write_bytes(b"anything")
    assert verify(folder, [trusted]).status == VERIFIED


def test_a_checkpoint_that_is_not_there_is_said_to_be_unchecked(folder: Path, trusted: Path, tmp_path: Path) -> None:
    aside = (folder / "checkpoint.safetensors").rename(tmp_path / "model.bin")
    result = verify(folder, [trusted])
    assert result.status == VERIFIED
    assert any(line.startswith("not checked  checkpoint.safetensors") for line in result.lines)
    assert verify(folder, [trusted], aside).status == VERIFIED
    assert not any(line.startswith("not checked") for line in verify(folder, [trusted], aside).lines)


def test_another_checkpoint_is_named(folder: Path, trusted: Path, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"another")
    assert files_wrong(verify(folder, [trusted], tmp_path / "model.bin")) == ["model.bin"]
    (folder / "model.safetensors").write_bytes(b"another")
    assert files_wrong(verify(folder, [trusted])) == ["model.safetensors"]
    assert verify(folder, [trusted], tmp_path / "nothing").status == UNREADABLE


def test_a_statement_without_a_checkpoint_vouches_for_none(folder: Path, trusted: Path) -> None:
    documents = {name: content for name, content in CONTENTS.items() if name != "checkpoint.safetensors"}
    (folder / "envelope.json").write_bytes(signed(documents))
    assert files_wrong(verify(folder, [trusted])) == ["checkpoint.safetensors"]


def test_the_signature_of_another_statement_does_not_fit(folder: Path, trusted: Path) -> None:
    other = json.loads(signed(CONTENTS, verdict="pass"))
    put(folder, {**envelope_of(folder), "signatures": other["signatures"]})
    result = verify(folder, [trusted])
    assert result.wrong == [
        ("envelope.json", f"the signature is not one of trusted key {THUMBPRINT} over this payload")
    ]


def test_the_signature_of_an_untrusted_key_under_a_trusted_keyid_does_not_verify(folder: Path, trusted: Path) -> None:
    forged = json.loads(signed(CONTENTS, key(bytes(32)), verdict="pass"))
    forged["signatures"][0]["keyid"] = THUMBPRINT
    put(folder, forged)
    assert "not one of trusted key" in verify(folder, [trusted]).wrong[0][1]


def test_the_keyid_of_another_trusted_key_does_not_verify(folder: Path, trusted: Path, tmp_path: Path) -> None:
    other = Ed25519PrivateKey.generate()
    (tmp_path / "other.pem").write_bytes(pem(other))
    envelope = envelope_of(folder)
    envelope["signatures"][0]["keyid"] = Key.of(other).key_id
    put(folder, envelope)
    assert files_wrong(verify(folder, [trusted, tmp_path / "other.pem"])) == ["envelope.json"]
    # Without a key, the statement itself still names the key that signed it.
    assert "another key" in verify(folder).wrong[0][1]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + b"\n",
        lambda text: b" " + text,
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: json.dumps(json.loads(text)).encode(),
        lambda text: json.dumps(json.loads(text), indent=1).encode(),
        lambda text: text.replace(b"/vnd", b"\\/vnd"),
        lambda text: text.replace(b"payloadType", b"\\u0070ayloadType"),
        lambda text: text.replace(b'{"payload"', b'{"payload":"e30=","payload"'),
        lambda text: text.replace(b'"keyid"', b'"extra":1,"keyid"'),
        lambda text: text.replace(b'"signatures"', b'"signature"'),
    ],
)
def test_an_envelope_that_was_written_anew_is_found(
    change: Callable[[bytes], bytes], folder: Path, trusted: Path
) -> None:
    path = folder / "envelope.json"
    before = path.read_bytes()
    path.write_bytes(change(before))
    assert path.read_bytes() != before
    assert files_wrong(verify(folder, [trusted])) == ["envelope.json"]


@pytest.mark.parametrize("text", ["{}", "[]", "null", "", "nonsense", "\xff", "[" * 100_000, '{"a":NaN}', "1" * 5000])
def test_an_envelope_that_is_none_is_named(text: str, folder: Path, trusted: Path) -> None:
    (folder / "envelope.json").write_bytes(text.encode("latin-1"))
    assert (verify(folder, [trusted]).status, files_wrong(verify(folder))) == (WRONG, ["envelope.json"])


def _twice(statement: dict[str, Any]) -> None:
    statement["subject"].append(statement["subject"][0])


@pytest.mark.parametrize(
    "change",
    [
        _twice,
        lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda s: s.update(predicateType="urn:amun:other:1"),
        lambda s: s.update(predicateType=["urn:amun:audit-report:1"]),
        lambda s: s.update(more=1),
        lambda s: s.update(subject=[]),
        lambda s: s.update(subject={}),
        lambda s: s.update(predicate=[]),
        lambda s: s["predicate"].update(key_id="other"),
        lambda s: s["subject"].pop(0),
        lambda s: s["subject"].pop(2),
        lambda s: s["subject"][0].update(name="../report.json"),
        lambda s: s["subject"][0].update(name=1),
        lambda s: s["subject"][0]["digest"].update(sha512="0"),
        lambda s: s["subject"][0]["digest"].update(sha256="A" * 64),
        lambda s: s["subject"].append({"name": "verify.py", "digest": {"sha256": "0" * 64}}),
    ],
)
def test_a_statement_of_another_form_is_refused_though_it_is_signed(
    change: Callable[[dict[str, Any]], None], folder: Path, trusted: Path
) -> None:
    put_payload(folder, change)
    assert files_wrong(verify(folder, [trusted])) == ["envelope.json"]


def test_nothing_that_a_terminal_obeys_is_printed(folder: Path, trusted: Path) -> None:
    put_payload(folder, lambda s: s["predicate"].update({"\x1b[2J": "\x1b]0;VERIFIED\x07", "verdict": "a\nb\u202e"}))
    result = verify(folder, [trusted])
    assert result.status == VERIFIED
    assert all(line.isascii() and line.isprintable() for line in result.lines)


def test_two_signatures_are_refused(folder: Path, trusted: Path) -> None:
    envelope = envelope_of(folder)
    put(folder, {**envelope, "signatures": envelope["signatures"] * 2})
    assert "exactly one" in verify(folder, [trusted]).wrong[0][1]


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (b'{"document": {"id": "%s"}}' % ID.encode(), "canonical"),
        (b'{"document":{"id":"other"}}', "document.id"),
        (b'{"document":{"edition":2,"id":"%s"}}' % ID.encode(), "document.edition"),
        (b'{"document":{}}', "document.id"),
        (b"[]", "document.id"),
        (b"%PDF", "JSON"),
        (b'{"document":{"id":"%s"},"document":{"id":"%s"}}' % (ID.encode(), ID.encode()), "twice"),
        (b'{"a":1.0,"document":{"id":"%s"}}' % ID.encode(), "canonical"),
    ],
)
def test_a_report_that_is_not_the_document_of_the_statement_is_named(
    report: bytes, why: str, folder: Path, trusted: Path
) -> None:
    contents = {**CONTENTS, "report.json": report}
    (folder / "report.json").write_bytes(report)
    (folder / "envelope.json").write_bytes(signed(contents))
    result = verify(folder, [trusted])
    assert files_wrong(result) == ["report.json"]
    assert why in result.wrong[0][1]


def test_a_certificate_is_verified_like_a_report(tmp_path: Path, trusted: Path) -> None:
    document = rfc8785.dumps({"document": {"id": ID, "kind": "erasure_certificate"}})
    contents = {"certificate.json": document, "certificate.pdf": b"%PDF", "samples.csv": b"sample\r\n"}
    subjects = [(name, hashlib.sha256(content).hexdigest()) for name, content in contents.items()]
    predicate = {"document_id": ID, "kind": "erasure_certificate", "outcome": "completed"}
    made = bundle({**contents, "envelope.json": sign(key(), subjects, verifier.ERASURE_CERTIFICATE, predicate)})
    (tmp_path / "bundle.zip").write_bytes(made)
    assert verify(tmp_path / "bundle.zip", [trusted]).status == VERIFIED


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        b'{"keys":[]}',
        b'{"keys":{}}',
        b'{"keys":[1]}',
        b"[]",
        b'{"kty":"OKP","crv":"Ed25519","x":"AAAA"}',
        b'{"kty":"OKP","crv":"Ed25519"}',
        b'{"kty":"RSA"}',
        pytest.param(key().signer.private_bytes, id="private"),
        pytest.param(
            generate_private_key(SECP256R1())
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
            id="another kind",
        ),
    ],
)
def test_a_key_file_that_holds_no_key_is_refused(content: bytes, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(content)
    result = verify(folder, [tmp_path / "key"])
    assert result.status == UNREADABLE
    assert "key file" in result.lines[0]


def test_what_is_no_bundle_is_refused(tmp_path: Path, trusted: Path) -> None:
    (tmp_path / "text").write_text("text")
    for path in (tmp_path / "text", tmp_path / "nothing", Path("nul\0")):
        assert verify(path, [trusted]).status == UNREADABLE
    assert verify(tmp_path / "bundle", [tmp_path / "nothing"]).status == UNREADABLE


def zipped(folder: Path, *more: tuple[str | zipfile.ZipInfo, bytes], **options: Any) -> Path:
    path = folder.parent / "bundle.zip"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", **options) as archive:
        warnings.simplefilter("ignore")  # names that are there twice
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
        for name, content in more:
            archive.writestr(name, content)
    return path


def _link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("link.csv")
    info.create_system = 3
    info.external_attr = 0o120777 << 16
    return info


@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_verified_without_unpacking_it(packed: int, folder: Path, trusted: Path) -> None:
    before = sorted(folder.parent.iterdir())
    path = zipped(folder, compression=packed)
    assert verify(path, [trusted]).status == VERIFIED
    assert sorted(folder.parent.iterdir()) == sorted([*before, path])


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../evil.csv", "../evil.csv"),
        ("/etc/evil", "/etc/evil"),
        ("a/b.csv", "a/b.csv"),
        ("folder/", "folder/"),
        ("..", ".."),
        ("C:\\evil", "C:\\evil"),
        ("report.json", "report.json"),
        ("\x1b[2Jreport.json", "?[2Jreport.json"),
        ("samples.csv\N{RIGHT-TO-LEFT OVERRIDE}", "samples.csv?"),
        (_link(), "link.csv"),
    ],
    ids=str,
)
def test_a_hostile_entry_of_a_zip_is_named_and_never_opened(
    name: str | zipfile.ZipInfo, shown: str, folder: Path, trusted: Path
) -> None:
    result = verify(zipped(folder, (name, b"evil")), [trusted])
    assert (result.status, files_wrong(result)) == (WRONG, [shown])
    assert "\x1b" not in "".join(result.lines)


def test_a_name_that_hides_behind_a_nul_is_named(folder: Path, trusted: Path) -> None:
    path = zipped(folder, ("README.txtXevil", b"evil"))
    path.write_bytes(path.read_bytes().replace(b"README.txtXevil", b"README.txt\0evil"))
    assert files_wrong(verify(path, [trusted])) == ["README.txt?evil"]


def test_a_zip_of_too_many_entries_is_refused(folder: Path, trusted: Path) -> None:
    path = zipped(folder, *((f"{n}.txt", b"") for n in range(100)))
    assert verify(path, [trusted]).status == UNREADABLE


def test_a_zip_bomb_is_not_swallowed(folder: Path, trusted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "MOST_JSON", 1 << 16)
    (folder / "envelope.json").write_bytes(b" " * (1 << 17))
    result = verify(zipped(folder, compression=zipfile.ZIP_DEFLATED), [trusted])
    assert result.wrong == [("envelope.json", "larger than 65536 bytes")]


def test_an_unusual_packing_is_named(folder: Path, trusted: Path) -> None:
    path = zipped(folder, compression=zipfile.ZIP_LZMA)
    assert set(files_wrong(verify(path, [trusted]))) == {*CONTENTS, "envelope.json"}


def test_a_damaged_zip_never_ends_in_a_traceback(folder: Path, trusted: Path) -> None:
    """Each byte of the zip's own structures, and a sample of the rest. What is still verified was not content."""
    for file in ("report.pdf", "samples.csv", "checkpoint.safetensors"):
        (folder / file).write_bytes(CONTENTS[file][:100])
    (folder / "envelope.json").write_bytes(signed({name: (folder / name).read_bytes() for name in CONTENTS}))
    path = zipped(folder)
    original = path.read_bytes()
    (start,) = struct.unpack("<L", original[-6:-2])  # of the central directory
    for position in [*range(0, start, 13), *range(start, len(original))]:
        path.write_bytes(flipped(original, position, position % 8))
        result = verify(path, [trusted])
        assert result.status in (VERIFIED, WRONG, UNREADABLE)
        if result.status == VERIFIED:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    assert archive.read(name) == (folder / name).read_bytes()
    for length in range(0, len(original), 53):
        path.write_bytes(original[:length])
        assert verify(path, [trusted]).status == UNREADABLE


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)


@given(JSON_VALUES)
def test_the_canonical_form_is_that_of_an_independent_implementation(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)
    assert canonical(json.loads(rfc8785.dumps(value))) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    ("number", "text"),
    [  # RFC 8785, appendix B
        (0x0000000000000000, "0"),
        (0x8000000000000000, "0"),
        (0x0000000000000001, "5e-324"),
        (0x7FEFFFFFFFFFFFFF, "1.7976931348623157e+308"),
        (0x4340000000000000, "9007199254740992"),
        (0x4430000000000000, "295147905179352830000"),
        (0x44B52D02C7E14AF5, "9.999999999999997e+22"),
        (0x44B52D02C7E14AF6, "1e+23"),
        (0x444B1AE4D6E2EF4E, "999999999999999700000"),
        (0x444B1AE4D6E2EF50, "1e+21"),
        (0x3EB0C6F7A0B5ED8C, "9.999999999999997e-7"),
        (0x3EB0C6F7A0B5ED8D, "0.000001"),
        (0x41B3DE4355555553, "333333333.3333332"),
        (0xBECBF647612F3696, "-0.0000033333333333333333"),
    ],
)
def test_numbers_are_written_as_rfc_8785_does(number: int, text: str) -> None:
    (value,) = struct.unpack(">d", struct.pack(">Q", number))
    assert canonical(value) == text.encode()
    assert canonical(json.loads(text)) == text.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_json_cannot_hold_has_no_canonical_form(value: Any) -> None:
    with pytest.raises(ValueError):
        canonical(value)


def test_the_command_line_tells_its_exit_status(
    folder: Path, trusted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verifier.main([str(folder), "--key", str(trusted)]) == VERIFIED
    assert verifier.main([str(folder)]) == INTEGRITY_ONLY
    assert verifier.main([str(folder.parent / "nothing")]) == UNREADABLE
    (folder / "report.pdf").unlink()
    assert verifier.main([str(folder), "--key", str(trusted)]) == WRONG
    assert "WRONG: report.pdf. Do not rely" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        verifier.main([])


def test_a_reader_that_has_seen_enough_gets_the_status_and_no_traceback(folder: Path, trusted: Path) -> None:
    command = [sys.executable, verifier.__file__, str(folder), "--key", str(trusted)]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (VERIFIED, "")
