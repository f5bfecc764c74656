"""The table of settings in docs/operations.md, from models.settings: ``python -m tests.operations`` writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from models.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "operations.md"
BEGIN, END = "<!-- settings: made from models/settings.py -->", "<!-- end of settings -->"


def settings_table() -> str:
    rows = ["| variable | default | what it is |", "|---|---|---|"]
    rows += [
        f"| `AMUN_{name.upper()}` | {_default(field)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(rows)


def _default(field: FieldInfo) -> str:
    assert field.default is not PydanticUndefined
    return f"`{field.default}`" if field.default not in (None, "") else ""


def table_in(page: str) -> str:
    """What stands between the two marks."""
    found = re.search(f"{re.escape(BEGIN)}\n(.*?)\n{re.escape(END)}", page, re.DOTALL)
    assert found is not None
    return found[1].strip()


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.replace(table_in(text), settings_table()), encoding="utf-8")
