"""Documents of the recorded cases, and what their PDFs say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import printed
from worker import report

Pages = Callable[[dict[str, Any]], list[str]]


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    """Text of each page of a document's PDF, spaces and line ends as single spaces."""

    def read(document: dict[str, Any]) -> list[str]:
        report.render_pdf(document, tmp_path / "document.pdf")
        return printed.pages(tmp_path / "document.pdf")

    return read
