"""Indexes for the last decisions on retraining, so that reading them costs the same after years."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_index("ix_retraining_decisions_model_id", "retraining_decisions", ["model", "id"])
    op.create_index("ix_retraining_decisions_model_retrain_id", "retraining_decisions", ["model", "retrain", "id"])
