"""The profiles of landed partitions, and the findings of the quality check about them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "landing_profiles",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("partition", sa.Text(), nullable=False, comment="Empty for a dataset without partitions."),
        sa.Column(
            "content",
            sa.Text(),
            nullable=True,
            comment="Content digest of the published rows; null: they were not published.",
        ),
        sa.Column("landed_at", sa.Text(), nullable=False, comment="ISO 8601, UTC."),
        sa.Column("state", sa.Text(), nullable=False, comment="as usual, not judged, info, warning or critical."),
        sa.Column("reason", sa.Text(), nullable=True, comment="Why the partition could not be judged; null: it was."),
        sa.Column("profile", sa.Text(), nullable=False, comment="JSON."),
        sa.Column("findings", sa.Text(), nullable=False, comment="JSON: list of findings."),
        sa.PrimaryKeyConstraint("id", name="pk_landing_profiles"),
    )
    op.create_index("ix_landing_profiles_dataset_partition_id", "landing_profiles", ["dataset", "partition", "id"])
    op.create_index("ix_landing_profiles_dataset_id", "landing_profiles", ["dataset", "id"])
