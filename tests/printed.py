"""What a reader of a PDF sees."""

from __future__ import annotations

from pathlib import Path

import pypdfium2


def pages(path: Path) -> list[str]:
    """Text of each page, spaces and line ends as single spaces."""
    with pypdfium2.PdfDocument(path) as document:
        return [" ".join(page.get_textpage().get_text_bounded().split()) for page in document]
