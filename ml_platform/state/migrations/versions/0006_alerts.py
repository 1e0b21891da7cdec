"""Alerts, their notices and messages, and silences; and an index for the partitions with a broken contract."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    big_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "alerts",
        sa.Column("id", big_id, autoincrement=True, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False, comment="Its asset, check, model, schedule or service."),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False, comment="info, warning or critical."),
        sa.Column("domain", sa.Text(), nullable=False, comment="Empty for the platform itself."),
        sa.Column("link", sa.Text(), nullable=False),
        sa.Column("since", sa.Text(), nullable=False, comment="ISO 8601, UTC."),
        sa.Column("opened_at", sa.Text(), nullable=False, comment="First evaluation that found it; ISO 8601, UTC."),
        sa.Column("resolved_at", sa.Text(), nullable=True, comment="ISO 8601, UTC; null while it is open."),
        sa.Column("acknowledged_at", sa.Text(), nullable=True, comment="ISO 8601, UTC."),
        sa.Column("acknowledged_by", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False, comment="Of the person who acknowledged it."),
        sa.PrimaryKeyConstraint("id", name="pk_alerts"),
    )
    op.create_index("ix_alerts_resolved_at", "alerts", ["resolved_at"])
    op.create_table(
        "alert_notices",
        sa.Column("alert_id", big_id, nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False, comment="Severity that was sent last."),
        sa.Column("first_at", sa.Text(), nullable=False, comment="ISO 8601, UTC."),
        sa.Column("last_at", sa.Text(), nullable=False, comment="ISO 8601, UTC."),
        sa.Column("escalated_at", sa.Text(), nullable=True, comment="ISO 8601, UTC."),
        sa.Column("receivers", sa.Text(), nullable=False, comment="JSON: receivers that get the recovery."),
        sa.PrimaryKeyConstraint("alert_id", "route", name="pk_alert_notices"),
        sa.ForeignKeyConstraint(["alert_id"], ["alerts.id"], name="fk_alert_notices_alert_id", ondelete="CASCADE"),
    )
    op.create_table(
        "alert_messages",
        sa.Column("id", big_id, autoincrement=True, nullable=False),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False, comment="Equal for a message that is sent twice."),
        sa.Column("body", sa.Text(), nullable=False, comment="JSON."),
        sa.Column("created_at", sa.Text(), nullable=False, comment="ISO 8601, UTC."),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("next_at", sa.Text(), nullable=False, comment="Earliest next attempt; ISO 8601, UTC."),
        sa.Column("problem", sa.Text(), nullable=False, comment="Of the last attempt; empty: none."),
        sa.PrimaryKeyConstraint("id", name="pk_alert_messages"),
        sa.UniqueConstraint("key", name="uq_alert_messages_key"),
    )
    op.create_table(
        "alert_silences",
        sa.Column("id", big_id, autoincrement=True, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="Empty: all."),
        sa.Column("subject", sa.Text(), nullable=False, comment="With * for any characters; empty: all."),
        sa.Column("until", sa.Text(), nullable=False, comment="ISO 8601, UTC."),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False, comment="ISO 8601, UTC."),
        sa.PrimaryKeyConstraint("id", name="pk_alert_silences"),
    )
    op.create_index("ix_contract_results_failed_check", "contract_results", ["failed_check"])
