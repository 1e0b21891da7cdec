"""The first schema: catalog of the lake, landed files, cursors, serving, decisions.

Triggers keep the audit records: they can be added, and never changed or removed. The head of the log only moves
forward.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

GENESIS = "0" * 64
"""Digest before the first audit record."""

SQLITE = (
    """CREATE TRIGGER audit_records_insert BEFORE INSERT ON audit_records
    WHEN EXISTS (SELECT 1 FROM audit_records WHERE sequence = NEW.sequence)
    BEGIN SELECT RAISE(ABORT, 'audit records are append-only'); END""",
    """CREATE TRIGGER audit_records_update BEFORE UPDATE ON audit_records
    BEGIN SELECT RAISE(ABORT, 'audit records are append-only'); END""",
    """CREATE TRIGGER audit_records_delete BEFORE DELETE ON audit_records
    BEGIN SELECT RAISE(ABORT, 'audit records are append-only'); END""",
    """CREATE TRIGGER audit_head_insert BEFORE INSERT ON audit_head
    WHEN EXISTS (SELECT 1 FROM audit_head)
    BEGIN SELECT RAISE(ABORT, 'the head of the audit log has one row'); END""",
    """CREATE TRIGGER audit_head_update BEFORE UPDATE ON audit_head
    WHEN NEW.id <> OLD.id OR NEW.sequence <= OLD.sequence
    BEGIN SELECT RAISE(ABORT, 'the head of the audit log moves forward only'); END""",
    """CREATE TRIGGER audit_head_delete BEFORE DELETE ON audit_head
    BEGIN SELECT RAISE(ABORT, 'the head of the audit log cannot be removed'); END""",
)

POSTGRES = (
    """CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'the audit log is append-only: % on %', TG_OP, TG_TABLE_NAME; END $$""",
    """CREATE TRIGGER audit_records_change BEFORE UPDATE OR DELETE ON audit_records
    FOR EACH ROW EXECUTE FUNCTION refuse_audit_change()""",
    """CREATE TRIGGER audit_records_truncate BEFORE TRUNCATE ON audit_records
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()""",
    """CREATE TRIGGER audit_head_update BEFORE UPDATE ON audit_head
    FOR EACH ROW WHEN (NEW.id <> OLD.id OR NEW.sequence <= OLD.sequence) EXECUTE FUNCTION refuse_audit_change()""",
    """CREATE TRIGGER audit_head_delete BEFORE DELETE ON audit_head
    FOR EACH ROW EXECUTE FUNCTION refuse_audit_change()""",
    """CREATE TRIGGER audit_head_truncate BEFORE TRUNCATE ON audit_head
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()""",
)


def upgrade() -> None:
    _create_tables()
    connection = op.get_bind()
    head = sa.table("audit_head", *map(sa.column, ("id", "sequence", "digest")))
    op.bulk_insert(head, [{"id": 1, "sequence": 0, "digest": GENESIS}])
    for statement in SQLITE if connection.dialect.name == "sqlite" else POSTGRES:
        op.execute(statement)


def _create_tables() -> None:
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False, comment="Always 1."),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_head"),
    )
    op.create_table(
        "audit_records",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Text(), nullable=False, comment="ISO 8601."),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True, comment="Copy of facts.model, for the index."),
        sa.Column("facts", sa.Text(), nullable=False, comment="JSON."),
        sa.Column("previous", sa.Text(), nullable=False, comment="Digest of the record before."),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_audit_records"),
    )
    op.create_index(
        "ix_audit_records_kind_model_sequence", "audit_records", ["kind", "model", "sequence"], unique=False
    )
    op.create_table(
        "contract_results",
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("partition", sa.Text(), nullable=False, comment="Empty for a dataset without partitions."),
        sa.Column(
            "passed_digest",
            sa.Text(),
            nullable=True,
            comment="Content digest of the rows that were last published after all checks passed.",
        ),
        sa.Column("passed_landed_sha256", sa.Text(), nullable=True, comment="Landed file of those rows."),
        sa.Column("passed_at", sa.Text(), nullable=True, comment="ISO 8601, UTC."),
        sa.Column("failed_check", sa.Text(), nullable=True, comment="Check that has failed since; null: none."),
        sa.Column(
            "failed_landed_sha256",
            sa.Text(),
            nullable=True,
            comment="Landed file that broke the contract; null: no file.",
        ),
        sa.Column("failed_at", sa.Text(), nullable=True, comment="ISO 8601, UTC."),
        sa.PrimaryKeyConstraint("dataset", "partition", name="pk_contract_results"),
    )
    op.create_table(
        "cursors",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False, comment="JSON."),
        sa.Column("changed_at", sa.Text(), nullable=False, comment="ISO 8601, UTC."),
        sa.PrimaryKeyConstraint("name", name="pk_cursors"),
    )
    op.create_table(
        "desired_states",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="JSON."),
        sa.Column("changed_at", sa.Text(), nullable=False, comment="ISO 8601, UTC."),
        sa.PrimaryKeyConstraint("model", name="pk_desired_states"),
    )
    op.create_table(
        "joined_labels",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("partition", sa.Text(), nullable=False, comment="Partition of the training set."),
        sa.Column(
            "digest", sa.Text(), nullable=False, comment="Digest of the partition and of the identity that was joined."
        ),
        sa.Column(
            "labels_digest",
            sa.Text(),
            nullable=False,
            comment="Content digest of the labels that the outcomes contain.",
        ),
        sa.Column(
            "first_predict_at",
            sa.Text(),
            nullable=True,
            comment="Earliest prediction time of its examples; ISO 8601, UTC.",
        ),
        sa.Column(
            "last_predict_at",
            sa.Text(),
            nullable=True,
            comment="Latest prediction time of its examples; ISO 8601, UTC.",
        ),
        sa.Column(
            "next_known_at",
            sa.Text(),
            nullable=True,
            comment="When its next label becomes known; null: all are. ISO 8601, UTC.",
        ),
        sa.PrimaryKeyConstraint("model", "partition", name="pk_joined_labels"),
    )
    op.create_table(
        "lake_pins",
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column(
            "holder", sa.Text(), nullable=False, comment="Reason why the version is kept, for example model/<digest>."
        ),
        sa.PrimaryKeyConstraint("table_name", "version", "holder", name="pk_lake_pins"),
    )
    op.create_table(
        "lake_tables",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False, comment="Current version of the table, from 0."),
        sa.Column("partitioned", sa.Boolean(), nullable=False),
        sa.Column(
            "published_version", sa.BigInteger(), nullable=True, comment="Version that the Delta log shows; null: none."
        ),
        sa.Column(
            "published_commit",
            sa.BigInteger(),
            nullable=True,
            comment="Delta commit that shows it; null: the log must be compared.",
        ),
        sa.Column(
            "columns", sa.LargeBinary(), nullable=False, comment="An empty table of these columns, as Arrow IPC."
        ),
        sa.PrimaryKeyConstraint("name", name="pk_lake_tables"),
    )
    op.create_table(
        "landed_files",
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="Name of the file in the landing folder of the dataset."),
        sa.Column("partition", sa.Text(), nullable=False, comment="Empty for a dataset without partitions."),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column(
            "modified_ns",
            sa.BigInteger(),
            nullable=False,
            comment="Modification time, nanoseconds since 1970; 0: unknown.",
        ),
        sa.Column(
            "inode", sa.BigInteger(), nullable=False, comment="Number of the file, another one when it was replaced."
        ),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column(
            "landed_at", sa.Text(), nullable=False, comment="When the platform first saw this content; ISO 8601, UTC."
        ),
        sa.Column("requested_sha256", sa.Text(), nullable=True, comment="Content for which a run was last requested."),
        sa.Column(
            "requested_tick",
            sa.BigInteger(),
            nullable=True,
            comment="Sensor tick of that request; it counts once Dagster stored the tick.",
        ),
        sa.PrimaryKeyConstraint("dataset", "name", name="pk_landed_files"),
    )
    op.create_index("ix_landed_files_partition", "landed_files", ["dataset", "partition"], unique=False)
    op.create_table(
        "performance_periods",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("start", sa.Text(), nullable=False, comment="First instant of the period; ISO 8601, UTC."),
        sa.Column("version", sa.Text(), nullable=False, comment="Version of the model."),
        sa.Column(
            "digest", sa.Text(), nullable=False, comment="Digest of the outcomes and settings that were measured."
        ),
        sa.Column("result", sa.Text(), nullable=False, comment="JSON."),
        sa.PrimaryKeyConstraint("model", "start", "version", name="pk_performance_periods"),
    )
    op.create_table(
        "prediction_days",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("day", sa.Text(), nullable=False, comment="Partition of the predictions: UTC day of logged_at."),
        sa.Column("predict_day", sa.Text(), nullable=False, comment="UTC day of predict_at."),
        sa.Column("predictions", sa.BigInteger(), nullable=False, comment="Predictions stored for both days."),
        sa.Column(
            "outcomes", sa.BigInteger(), nullable=False, comment="Facts about their outcomes, corrections included."
        ),
        sa.Column("labelled", sa.BigInteger(), nullable=False, comment="Predictions of which the outcome is known."),
        sa.PrimaryKeyConstraint("model", "day", "predict_day", name="pk_prediction_days"),
    )
    op.create_index("ix_prediction_days_model_predict_day", "prediction_days", ["model", "predict_day"], unique=False)
    op.create_table(
        "verdicts",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column(
            "sequence", sa.BigInteger(), nullable=False, comment="Audit record of the verdict; a clock may go back."
        ),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("partition", sa.Text(), nullable=False),
        sa.Column("candidate", sa.Text(), nullable=False, comment="Content digest of the version."),
        sa.Column("evidence", sa.Text(), nullable=False, comment="Digest of the evidence."),
        sa.Column("verdict", sa.Text(), nullable=False, comment="JSON, as hashed."),
        sa.Column("metrics", sa.Text(), nullable=False, comment="JSON: metrics by name."),
        sa.Column("recorded_at", sa.Text(), nullable=False, comment="ISO 8601, UTC."),
        sa.PrimaryKeyConstraint("digest", name="pk_verdicts"),
    )
    op.create_index("ix_verdicts_model_candidate", "verdicts", ["model", "candidate", "sequence"], unique=False)
    op.create_index("ix_verdicts_model_partition", "verdicts", ["model", "partition", "sequence"], unique=False)
    op.create_table(
        "verified_bentos",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False, comment="JSON."),
        sa.PrimaryKeyConstraint("model", "version", name="pk_verified_bentos"),
    )
    op.create_table(
        "lake_segments",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("partition", sa.Text(), nullable=False, comment="Empty for a table without partitions."),
        sa.Column("version", sa.BigInteger(), nullable=False, comment="Version of the table that added the segment."),
        sa.Column(
            "replaced_in", sa.BigInteger(), nullable=True, comment="Version that removed it; null while it is current."
        ),
        sa.Column("replaced_at", sa.Text(), nullable=True, comment="ISO 8601, UTC."),
        sa.Column("cleaned_at", sa.Text(), nullable=True, comment="When retention deleted its files; ISO 8601, UTC."),
        sa.Column(
            "stores_partition", sa.Boolean(), nullable=False, comment="Whether its files have the column `partition`."
        ),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False, comment="Content hash of the stored rows."),
        sa.Column(
            "digest", sa.Text(), nullable=False, comment="Content digest; compaction keeps the sum of those it merges."
        ),
        sa.Column("written_at", sa.Text(), nullable=False, comment="ISO 8601, UTC."),
        sa.ForeignKeyConstraint(["table_name"], ["lake_tables.name"], name="fk_lake_segments_table_name"),
        sa.PrimaryKeyConstraint("id", name="pk_lake_segments"),
    )
    op.create_index(
        "ix_lake_segments_current", "lake_segments", ["table_name", "replaced_in", "partition"], unique=False
    )
    op.create_index("ix_lake_segments_partition", "lake_segments", ["table_name", "partition", "version"], unique=False)
    op.create_index("ix_lake_segments_version", "lake_segments", ["table_name", "version"], unique=False)
    op.create_table(
        "lake_files",
        sa.Column("segment_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("path", sa.Text(), nullable=False, comment="Relative to the folder of the table."),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False, comment="Digest of the bytes of the file."),
        sa.ForeignKeyConstraint(
            ["segment_id"], ["lake_segments.id"], name="fk_lake_files_segment_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("segment_id", "path", name="pk_lake_files"),
    )
