"""A document as a PDF/A-3b by typst, from its JSON alone; the same document gives the same bytes."""

from __future__ import annotations

import tempfile
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import typst

from worker.report.document import dumps

COMMON = "common.typ"
TEMPLATES = {"audit_report": "report.typ", "re_audit": "report.typ", "erasure_certificate": "certificate.typ"}


def render_pdf(document: dict[str, Any], out: Path) -> None:
    """Write the PDF of a document to ``out``. Fonts are those that typst carries, so that every host draws the same."""
    template = TEMPLATES[document["document"]["kind"]]
    with tempfile.TemporaryDirectory(prefix="amun-report-") as name:
        folder = Path(name)
        for each in (COMMON, template):
            (folder / each).write_bytes(files("worker.report").joinpath(each).read_bytes())
        (folder / "document.json").write_bytes(dumps(document))
        drawn = _draw(document["audit"]) if "audit" in document else {}
        for plot, svg in drawn.items():
            (folder / f"{plot}.svg").write_bytes(svg)
        typst.compile(
            folder / template,
            output=out,
            root=folder,
            ignore_system_fonts=True,
            sys_inputs={"plots": ",".join(drawn)},
            pdf_standards="a-3b",
            timestamp=datetime.fromisoformat(document["document"]["issued_at"]),
        )


def _draw(audit: dict[str, Any]) -> dict[str, bytes]:
    # Brings matplotlib and scikit-learn: seconds of a core, which a worker's start does without.
    from worker.report import plots

    return plots.draw(audit)
