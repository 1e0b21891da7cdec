"""An index for the last verdicts of a model."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_index("ix_verdicts_model_sequence", "verdicts", ["model", "sequence", "partition"])
