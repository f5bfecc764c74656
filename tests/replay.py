"""A pipeline child that replays: it answers a register plan at once, or misbehaves as its first argument says.

python tests/replay.py MODE PLAN.json OUT_DIR --supervised
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROWS, PIXELS = 20, 16


def main() -> None:
    mode, _, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    threading.Thread(target=_exit_with_supervisor, daemon=True).start()
    print(json.dumps({"phase": "load", "progress": 0.25, "step": "replayed"}), flush=True)
    if mode == "sleep":
        time.sleep(60)
    if mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    result: dict[str, Any] = {
        "kind": "register",
        "status": "succeeded",
        "seconds": {"load": 0.1},
        "environment": dict.fromkeys(("device", "hardware", "python", "torch", "code_version"), "replay")
        | {"threads": 1},
        "files": [],
        "error": None,
    }
    if mode.startswith("fail:"):
        result |= {"status": "failed", "error": {"code": mode.removeprefix("fail:"), "detail": "as replayed"}}
    else:
        result |= {"files": _files(out), "outcome": _outcome()}
        if mode == "flipped":
            (out / "pixels.u8").write_bytes(b"other")
    (out / "result.json").write_text(json.dumps(result))
    sys.exit(1 if mode.startswith("fail:") else 0)


def _exit_with_supervisor() -> None:
    while os.read(sys.stdin.fileno(), 4096):  # no buffer: Python waits a second for its lock at the end, and aborts
        pass
    os._exit(9)


def _files(out: Path) -> list[dict[str, Any]]:
    pixels = [bytes([row]) * PIXELS for row in range(ROWS)]
    digests = [hashlib.sha256(row).digest() for row in pixels]
    lines = [
        {
            "index": row,
            "key": f"train/{row}",
            "sha256": digest.hex(),
            "file_sha256": None,
            "label": 0,
            "split": "train" if row < 12 else "control",
        }
        for row, digest in enumerate(digests)
    ]
    contents = {
        "pixels.u8": b"".join(pixels),
        "labels.i32": bytes(4 * ROWS),
        "digests.bin": b"".join(digests),
        "manifest.jsonl": "".join(json.dumps(line) + "\n" for line in lines).encode(),
    }
    for name, content in contents.items():
        (out / name).write_bytes(content)
    return [
        {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for name, content in contents.items()
    ]


def _outcome() -> dict[str, Any]:
    return {
        "rows": ROWS,
        "shape": [1, 4, 4],
        "classes": ["a"],
        "train": 12,
        "controls": 8,
        "manifest_sha256": hashlib.sha256(b"manifest").hexdigest(),
    }


if __name__ == "__main__":
    main()
