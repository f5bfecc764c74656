"""The life of a request: stored status, decisions, due dates, near-duplicates, uploads, webhooks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


LIVE = sa.text("status IN ('queued', 'running', 'awaiting_approval', 'awaiting_release', 'on_hold')")
SOME = "EXISTS (SELECT 1 FROM erasures WHERE erasures.request_id = deletion_requests.id AND erasures.status IN ({}))"
# What models.settling derived at this revision; holds and cancellations of requests came with it.
BACKFILL = f"""
UPDATE deletion_requests SET status = CASE
  WHEN rejected_at IS NOT NULL THEN 'rejected'
  WHEN {SOME.format("'on_hold'")} THEN 'on_hold'
  WHEN {SOME.format("'running'")} THEN 'running'
  WHEN {SOME.format("'open'")} AND approval_required AND approved_at IS NULL THEN 'awaiting_approval'
  WHEN {SOME.format("'open'")} THEN 'queued'
  WHEN {SOME.format("'awaiting_release'")} THEN 'awaiting_release'
  WHEN {SOME.format("'failed', 'cancelled'")} AND {SOME.format("'done', 'not_applicable'")} THEN 'partially_completed'
  WHEN {SOME.format("'failed'")} THEN 'failed'
  WHEN {SOME.format("'cancelled'")} THEN 'cancelled'
  WHEN has_controls AND controls_erased_at IS NULL THEN 'queued'
  ELSE 'completed' END
"""  # noqa: S608 - constants
STATUS = sa.Enum(
    "queued",
    "running",
    "awaiting_approval",
    "awaiting_release",
    "on_hold",
    "completed",
    "partially_completed",
    "failed",
    "cancelled",
    "rejected",
    name="status",
    native_enum=False,
    create_constraint=True,
    length=32,
)


REQUESTS = "deletion_requests"
# What lists are ranges of: name, columns in front of what they are sorted by.
RANGES = {
    "status": ["status", "regulation"],
    "application_status": ["application_id", "status", "regulation"],
    "set_status": ["training_set_id", "status", "regulation"],
    "application_set_status": ["application_id", "training_set_id", "status", "regulation"],
}
RANGES_OF_LIVE = {
    "live_due": [],
    "live_status": ["status", "regulation"],
    "live_application": ["application_id", "status", "regulation"],
    "live_set": ["training_set_id", "status", "regulation"],
    "live_application_set": ["application_id", "training_set_id", "status", "regulation"],
}
REPORT_RANGES = {
    "made": [],
    "verdict": ["verdict"],
    "model_made": ["model_id"],
    "model_verdict": ["model_id", "verdict"],
}


def _index_lists() -> None:
    for name, columns in RANGES.items():
        op.create_index(f"ix_{REQUESTS}_{name}", REQUESTS, [*columns, "id"])
    for name, columns in RANGES_OF_LIVE.items():
        op.create_index(
            f"ix_{REQUESTS}_{name}", REQUESTS, [*columns, "due_at", "id"], sqlite_where=LIVE, postgresql_where=LIVE
        )
    for name, columns in REPORT_RANGES.items():
        op.create_index(f"ix_audit_reports_{name}", "audit_reports", [*columns, "created_at", "id"])
    op.drop_index("ix_audit_reports_model_id", "audit_reports")
    op.create_index("ix_audit_reports_version", "audit_reports", ["version_id", "edition"])
    op.create_index("ix_models_status", "models", ["status", "id"])
    op.create_index("ix_training_sets_status", "training_sets", ["status", "id"])
    op.create_index("ix_jobs_kind_status", "jobs", ["kind", "status", "id"])
    op.create_index("ix_jobs_model_kind_status", "jobs", ["model_id", "kind", "status", "id"])


def _drop_indices_of_lists() -> None:
    for name in (*RANGES, *RANGES_OF_LIVE):
        op.drop_index(f"ix_{REQUESTS}_{name}", REQUESTS)
    op.create_index("ix_audit_reports_model_id", "audit_reports", ["model_id"])
    op.drop_index("ix_audit_reports_version", "audit_reports")
    for name in REPORT_RANGES:
        op.drop_index(f"ix_audit_reports_{name}", "audit_reports")
    op.drop_index("ix_models_status", "models")
    op.drop_index("ix_training_sets_status", "training_sets")
    op.drop_index("ix_jobs_kind_status", "jobs")
    op.drop_index("ix_jobs_model_kind_status", "jobs")


def _name_records_in_seals() -> None:
    """Once: the log is append-only again before this transaction ends."""
    op.add_column("event_seals", sa.Column("record", sa.String(length=32), server_default="", nullable=False))
    op.add_column("event_seals", sa.Column("record_id", sa.String(length=64), server_default="", nullable=False))
    postgresql = op.get_bind().dialect.name == "postgresql"
    op.execute(
        "DROP TRIGGER event_seals_append_only ON event_seals" if postgresql else "DROP TRIGGER event_seals_no_update"
    )
    op.execute(
        "UPDATE event_seals SET record = (SELECT events.record FROM events WHERE events.id = event_id), "
        "record_id = (SELECT events.record_id FROM events WHERE events.id = event_id)"
    )
    _protect_seals(postgresql, "UPDATE")
    op.create_index("ix_event_seals_record", "event_seals", ["record", "position"])
    op.create_index("ix_event_seals_record_id", "event_seals", ["record", "record_id", "position"])


def _protect_seals(postgresql: bool, *verbs: str) -> None:
    if postgresql:
        op.execute(
            "CREATE TRIGGER event_seals_append_only BEFORE UPDATE OR DELETE ON event_seals "
            "FOR EACH ROW EXECUTE FUNCTION amun_append_only()"
        )
        return
    for verb in verbs:
        op.execute(
            f"CREATE TRIGGER event_seals_no_{verb.lower()} BEFORE {verb} ON event_seals "
            "BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END"
        )


def _drop_records_from_seals() -> None:
    op.drop_index("ix_event_seals_record", "event_seals")
    op.drop_index("ix_event_seals_record_id", "event_seals")
    with op.batch_alter_table("event_seals", schema=None) as batch_op:
        batch_op.drop_column("record")
        batch_op.drop_column("record_id")
    if op.get_bind().dialect.name == "sqlite":  # the table was made anew, without its triggers
        _protect_seals(False, "UPDATE", "DELETE")


def upgrade() -> None:
    op.create_table(
        "cursors",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_cursors")),
    )
    op.create_table(
        "uploads",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("submitted_by", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_uploads")),
    )
    op.create_table(
        "near_duplicates",
        sa.Column("training_set_id", sa.Uuid(), nullable=False),
        sa.Column("first", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("second", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("distance", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["training_set_id"], ["training_sets.id"], name=op.f("fk_near_duplicates_training_set_id_training_sets")
        ),
        sa.PrimaryKeyConstraint("training_set_id", "first", "second", name=op.f("pk_near_duplicates")),
    )
    with op.batch_alter_table("near_duplicates", schema=None) as batch_op:
        batch_op.create_index("ix_near_duplicates_second", ["training_set_id", "second"], unique=False)

    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("application_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("secret_generation", sa.Integer(), nullable=False),
        sa.Column("previous_secret_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["application_id"], ["applications.id"], name=op.f("fk_webhooks_application_id_applications")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    with op.batch_alter_table("webhooks", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_webhooks_application_id"), ["application_id"], unique=False)

    op.create_table(
        "webhook_deliveries",
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=True),
        sa.Column("message_id", sa.String(length=64), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.JSON(none_as_null=True), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "pending",
                "delivered",
                "failed",
                "discarded",
                name="status",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], name=op.f("fk_webhook_deliveries_event_id_events")),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name=op.f("fk_webhook_deliveries_webhook_id_webhooks")
        ),
        sa.PrimaryKeyConstraint("webhook_id", "number", name=op.f("pk_webhook_deliveries")),
        sa.UniqueConstraint(
            "webhook_id", "event_id", "type", name=op.f("uq_webhook_deliveries_webhook_id_event_id_type")
        ),
    )
    with op.batch_alter_table("webhook_deliveries", schema=None) as batch_op:
        batch_op.create_index(
            "ix_webhook_deliveries_due",
            ["webhook_id", "next_attempt_at"],
            unique=False,
            sqlite_where=sa.text("status = 'pending'"),
            postgresql_where=sa.text("status = 'pending'"),
        )

    with op.batch_alter_table("webhook_deliveries", schema=None) as batch_op:
        batch_op.create_index("ix_webhook_deliveries_finished", ["finished_at"], unique=False)

    op.create_table(
        "webhook_attempts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("delivery_number", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["webhook_id", "delivery_number"],
            ["webhook_deliveries.webhook_id", "webhook_deliveries.number"],
            name=op.f("fk_webhook_attempts_webhook_id_delivery_number_webhook_deliveries"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_attempts")),
    )
    with op.batch_alter_table("webhook_attempts", schema=None) as batch_op:
        batch_op.create_index("ix_webhook_attempts_delivery", ["webhook_id", "delivery_number"], unique=False)

    with op.batch_alter_table("deletion_requests", schema=None) as batch_op:
        batch_op.add_column(sa.Column("status", sa.String(length=32), nullable=True))
        batch_op.add_column(sa.Column("original_due_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("extended_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("extension_reason", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("due_soon_told_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("overdue_told_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("held_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("decision_reason", sa.Text(), nullable=True))
        batch_op.drop_index(batch_op.f("ix_deletion_requests_application_id"))
        batch_op.drop_index(batch_op.f("ix_deletion_requests_due_at"))
        batch_op.create_index("ix_deletion_requests_application", ["application_id", "id"], unique=False)
        batch_op.create_index("ix_deletion_requests_external", ["external_id", "id"], unique=False)

    op.execute(BACKFILL)
    with op.batch_alter_table("deletion_requests", schema=None) as batch_op:
        batch_op.alter_column("status", existing_type=sa.String(length=32), type_=STATUS, nullable=False)

    with op.batch_alter_table("erasures", schema=None) as batch_op:
        batch_op.create_index("ix_erasures_model_request", ["model_id", "request_id"], unique=False)

    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("retry_of_id", sa.Uuid(), nullable=True))
        batch_op.add_column(sa.Column("measured", sa.JSON(none_as_null=True), nullable=True))
        batch_op.create_foreign_key(batch_op.f("fk_jobs_retry_of_id_jobs"), "jobs", ["retry_of_id"], ["id"])

    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.add_column(sa.Column("checkpoint", sa.String(length=64), nullable=True))

    with op.batch_alter_table("training_sets", schema=None) as batch_op:
        batch_op.add_column(sa.Column("near_duplicates", sa.JSON(none_as_null=True), nullable=True))

    _index_lists()
    _name_records_in_seals()


def downgrade() -> None:
    _drop_records_from_seals()
    _drop_indices_of_lists()
    with op.batch_alter_table("training_sets", schema=None) as batch_op:
        batch_op.drop_column("near_duplicates")

    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.drop_column("checkpoint")

    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("fk_jobs_retry_of_id_jobs"), type_="foreignkey")
        batch_op.drop_column("measured")
        batch_op.drop_column("retry_of_id")

    with op.batch_alter_table("erasures", schema=None) as batch_op:
        batch_op.drop_index("ix_erasures_model_request")

    with op.batch_alter_table("deletion_requests", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("ck_deletion_requests_status"), type_="check")
        batch_op.drop_index("ix_deletion_requests_external")
        batch_op.drop_index("ix_deletion_requests_application")
        batch_op.create_index(batch_op.f("ix_deletion_requests_due_at"), ["due_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_deletion_requests_application_id"), ["application_id"], unique=False)
        batch_op.drop_column("decision_reason")
        batch_op.drop_column("cancelled_at")
        batch_op.drop_column("held_at")
        batch_op.drop_column("overdue_told_at")
        batch_op.drop_column("due_soon_told_at")
        batch_op.drop_column("extension_reason")
        batch_op.drop_column("extended_at")
        batch_op.drop_column("original_due_at")
        batch_op.drop_column("status")

    with op.batch_alter_table("webhook_attempts", schema=None) as batch_op:
        batch_op.drop_index("ix_webhook_attempts_delivery")

    op.drop_table("webhook_attempts")
    with op.batch_alter_table("webhook_deliveries", schema=None) as batch_op:
        batch_op.drop_index("ix_webhook_deliveries_finished")
        batch_op.drop_index(
            "ix_webhook_deliveries_due",
            sqlite_where=sa.text("status = 'pending'"),
            postgresql_where=sa.text("status = 'pending'"),
        )

    op.drop_table("webhook_deliveries")
    with op.batch_alter_table("webhooks", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_webhooks_application_id"))

    op.drop_table("webhooks")
    with op.batch_alter_table("near_duplicates", schema=None) as batch_op:
        batch_op.drop_index("ix_near_duplicates_second")

    op.drop_table("near_duplicates")
    op.drop_table("uploads")
    op.drop_table("cursors")
