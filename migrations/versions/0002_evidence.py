"""Signed evidence: keys, certificates, what was destroyed and when."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "signing_keys",
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("public_key", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_signing_keys")),
    )
    op.create_table(
        "certificates",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("edition", sa.Integer(), nullable=False),
        sa.Column("supersedes_id", sa.Uuid(), nullable=True),
        sa.Column("outcome", sa.String(length=32), nullable=False),
        sa.Column("json_path", sa.String(length=255), nullable=False),
        sa.Column("json_sha256", sa.String(length=64), nullable=False),
        sa.Column("pdf_path", sa.String(length=255), nullable=False),
        sa.Column("pdf_sha256", sa.String(length=64), nullable=False),
        sa.Column("csv_path", sa.String(length=255), nullable=False),
        sa.Column("csv_sha256", sa.String(length=64), nullable=False),
        sa.Column("envelope_path", sa.String(length=255), nullable=False),
        sa.Column("envelope_sha256", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_certificates_job_id_jobs")),
        sa.ForeignKeyConstraint(["key_id"], ["signing_keys.key_id"], name=op.f("fk_certificates_key_id_signing_keys")),
        sa.ForeignKeyConstraint(
            ["request_id"], ["deletion_requests.id"], name=op.f("fk_certificates_request_id_deletion_requests")
        ),
        sa.ForeignKeyConstraint(
            ["supersedes_id"], ["certificates.id"], name=op.f("fk_certificates_supersedes_id_certificates")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_certificates")),
        sa.UniqueConstraint("request_id", "edition", name=op.f("uq_certificates_request_id_edition")),
    )
    with op.batch_alter_table("audit_reports", schema=None) as batch_op:
        batch_op.add_column(sa.Column("kind", sa.String(length=32), server_default="audit_report", nullable=False))
        batch_op.add_column(sa.Column("csv_path", sa.String(length=255), nullable=True))
        batch_op.add_column(sa.Column("csv_sha256", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("envelope_path", sa.String(length=255), nullable=True))
        batch_op.add_column(sa.Column("envelope_sha256", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("key_id", sa.String(length=64), nullable=True))
        batch_op.create_foreign_key(
            batch_op.f("fk_audit_reports_key_id_signing_keys"), "signing_keys", ["key_id"], ["key_id"]
        )

    with op.batch_alter_table("deletion_requests", schema=None) as batch_op:
        batch_op.add_column(sa.Column("resolution", sa.JSON(none_as_null=True), nullable=True))
        batch_op.add_column(sa.Column("samples_erased_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("certified_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("samples_kept", sa.JSON(none_as_null=True), nullable=True))
        batch_op.create_index(
            "ix_deletion_requests_uncertified",
            ["id"],
            unique=False,
            sqlite_where=sa.text("certified_at IS NULL"),
            postgresql_where=sa.text("certified_at IS NULL"),
        )
        batch_op.create_index(
            "ix_deletion_requests_unerased",
            ["id"],
            unique=False,
            sqlite_where=sa.text("samples_erased_at IS NULL"),
            postgresql_where=sa.text("samples_erased_at IS NULL"),
        )

    with op.batch_alter_table("erasures", schema=None) as batch_op:
        batch_op.add_column(sa.Column("signals_erased_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.create_index(
            "ix_erasures_signals",
            ["id"],
            unique=False,
            sqlite_where=sa.text("status = 'done' AND signals_erased_at IS NULL"),
            postgresql_where=sa.text("status = 'done' AND signals_erased_at IS NULL"),
        )

    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("about", sa.String(length=32), nullable=True))
        batch_op.add_column(sa.Column("about_id", sa.Uuid(), nullable=True))
        batch_op.create_index(
            "uq_jobs_one_live_certify",
            ["about_id"],
            unique=True,
            sqlite_where=sa.text("kind = 'certify' AND status IN ('queued', 'running')"),
            postgresql_where=sa.text("kind = 'certify' AND status IN ('queued', 'running')"),
        )

    with op.batch_alter_table("model_versions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("destroyed_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("never_trained", sa.JSON(none_as_null=True), nullable=True))

    with op.batch_alter_table("training_sets", schema=None) as batch_op:
        batch_op.add_column(sa.Column("suppressed", sa.Integer(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("training_sets", schema=None) as batch_op:
        batch_op.drop_column("suppressed")

    with op.batch_alter_table("model_versions", schema=None) as batch_op:
        batch_op.drop_column("never_trained")
        batch_op.drop_column("destroyed_at")
        batch_op.drop_column("decided_at")

    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_jobs_one_live_certify",
            sqlite_where=sa.text("kind = 'certify' AND status IN ('queued', 'running')"),
            postgresql_where=sa.text("kind = 'certify' AND status IN ('queued', 'running')"),
        )
        batch_op.drop_column("about_id")
        batch_op.drop_column("about")

    with op.batch_alter_table("erasures", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_erasures_signals",
            sqlite_where=sa.text("status = 'done' AND signals_erased_at IS NULL"),
            postgresql_where=sa.text("status = 'done' AND signals_erased_at IS NULL"),
        )
        batch_op.drop_column("signals_erased_at")

    with op.batch_alter_table("deletion_requests", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_deletion_requests_unerased",
            sqlite_where=sa.text("samples_erased_at IS NULL"),
            postgresql_where=sa.text("samples_erased_at IS NULL"),
        )
        batch_op.drop_index(
            "ix_deletion_requests_uncertified",
            sqlite_where=sa.text("certified_at IS NULL"),
            postgresql_where=sa.text("certified_at IS NULL"),
        )
        batch_op.drop_column("samples_kept")
        batch_op.drop_column("certified_at")
        batch_op.drop_column("samples_erased_at")
        batch_op.drop_column("resolution")

    with op.batch_alter_table("audit_reports", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("fk_audit_reports_key_id_signing_keys"), type_="foreignkey")
        batch_op.drop_column("key_id")
        batch_op.drop_column("envelope_sha256")
        batch_op.drop_column("envelope_path")
        batch_op.drop_column("csv_sha256")
        batch_op.drop_column("csv_path")
        batch_op.drop_column("kind")

    op.drop_table("certificates")
    op.drop_table("signing_keys")
