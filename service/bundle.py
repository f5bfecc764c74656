"""Evidence to take away: signed files, the verifier and how to run it, in one zip that has the same bytes every time."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from importlib.resources import files

README = """\
How to check this bundle, on any machine with Python 3.11 or later and without the service that made it:

1. pip install cryptography
2. Unpack this zip into a folder. verify.py is not covered by the signature: compare it with a copy you trust.
3. Fetch the public keys yourself from a source you trust, such as https://SERVICE/.well-known/jwks.json, and save
   them outside of the folder. A key that came with the bundle would prove nothing.
4. In the folder: python verify.py . --key ../jwks.json
5. It says what it checked, which file is wrong and why, and what it does not prove. Exit status 0: all verified.
6. A checkpoint that you hold is checked too with --checkpoint FILE.
"""
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold
REGULAR_FILE = 0o100644
UNIX = 3


def bundle(contents: Mapping[str, bytes]) -> bytes:
    """A zip of ``contents`` (by file name) with verify.py and README.txt.

    Stored, not deflated: another zlib would give other bytes.
    """
    everything = {
        **contents,
        "verify.py": files("models").joinpath("verify.py").read_bytes(),
        "README.txt": README.encode(),
    }
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(everything):
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system = UNIX
            info.external_attr = REGULAR_FILE << 16
            archive.writestr(info, everything[name])
    return made.getvalue()
