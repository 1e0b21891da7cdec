"""The decisions on retraining, and the runs that they started."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "retraining_decisions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("window", sa.Text(), nullable=False, comment="Partition of the model on which was decided."),
        sa.Column("inputs", sa.Text(), nullable=False, comment="Digest of its training sets and of changed code."),
        sa.Column("policy", sa.Text(), nullable=False, comment="Digest of the policy; empty: none is declared."),
        sa.Column("outcome", sa.Text(), nullable=False, comment="Digest of the decision and of each rule's effect."),
        sa.Column("retrain", sa.Boolean(), nullable=False),
        sa.Column("because", sa.Text(), nullable=False, comment="JSON: findings of the rules."),
        sa.Column("data_time", sa.Text(), nullable=False, comment="Data clock: end of the window; ISO 8601, UTC."),
        sa.Column("decided_at", sa.Text(), nullable=False, comment="ISO 8601, UTC."),
        sa.Column("state", sa.Text(), nullable=False, comment="Of its training: declined, requested, running, …"),
        sa.Column("run_id", sa.Text(), nullable=True, comment="Last run of Dagster that it started."),
        sa.Column("runs", sa.BigInteger(), nullable=False, comment="Runs that it started."),
        sa.Column("failures", sa.BigInteger(), nullable=False, comment="Runs that failed."),
        sa.Column("attempts", sa.BigInteger(), nullable=False, comment="Runs that it may start."),
        sa.Column("run_seconds", sa.Float(), nullable=False, comment="Duration of all its runs that have ended."),
        sa.PrimaryKeyConstraint("id", name="pk_retraining_decisions"),
        sa.UniqueConstraint(
            *("model", "window", "inputs", "policy", "outcome"), name="uq_retraining_decisions_model_window_outcome"
        ),
    )
    op.create_index("ix_retraining_decisions_model_data_time", "retraining_decisions", ["model", "data_time"])
    op.create_index(
        "ix_retraining_decisions_model_retrain_window", "retraining_decisions", ["model", "retrain", "window"]
    )
