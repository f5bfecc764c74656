"""Indices of what the dispatcher looks for: without requests that only wait, and of controls that shall go."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLE = "deletion_requests"
UNCERTIFIED, UNERASED = f"ix_{TABLE}_uncertified", f"ix_{TABLE}_unerased"
CONTROLS = f"ix_{TABLE}_controls"


def _index(name: str, columns: list[str], sqlite: str, postgresql: str | None = None) -> None:
    op.create_index(name, TABLE, columns, sqlite_where=sa.text(sqlite), postgresql_where=sa.text(postgresql or sqlite))


def upgrade() -> None:
    op.drop_index(UNCERTIFIED, TABLE)
    op.drop_index(UNERASED, TABLE)
    _index(UNCERTIFIED, ["status", "id"], "certified_at IS NULL AND status IN ('completed', 'rejected')")
    _index(UNERASED, ["status", "id"], "samples_erased_at IS NULL AND status = 'completed'")
    _index(
        CONTROLS,
        ["id"],
        "has_controls = 1 AND controls_erased_at IS NULL",
        "has_controls AND controls_erased_at IS NULL",
    )


def downgrade() -> None:
    for name in (CONTROLS, UNERASED, UNCERTIFIED):
        op.drop_index(name, TABLE)
    _index(UNCERTIFIED, ["id"], "certified_at IS NULL")
    _index(UNERASED, ["id"], "samples_erased_at IS NULL")
