"""The cost of each step, and the costs of each asset by day."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    no_domain, no_model = "Empty for an asset of no domain.", "Empty for an asset of no model."
    op.create_table(
        "step_costs",
        sa.Column("run_id", sa.Text(), nullable=False, comment="Run of Dagster."),
        sa.Column(
            "asset",
            sa.Text(),
            nullable=False,
            comment="Key of the asset, or of the asset with its check after a colon.",
        ),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False, comment="From 0."),
        sa.Column("day", sa.Text(), nullable=False, comment="UTC day on which the step ended."),
        sa.Column("domain", sa.Text(), nullable=False, comment=no_domain),
        sa.Column("model", sa.Text(), nullable=False, comment=no_model),
        sa.Column("failed", sa.Boolean(), nullable=False),
        sa.Column("ended_at", sa.Text(), nullable=False, comment="ISO 8601, UTC."),
        *_used(),
        sa.PrimaryKeyConstraint("run_id", "asset", "attempt", name="pk_step_costs"),
    )
    op.create_index("ix_step_costs_day", "step_costs", ["day"])
    op.create_table(
        "cost_days",
        sa.Column("day", sa.Text(), nullable=False, comment="UTC day on which the steps ended."),
        sa.Column("domain", sa.Text(), nullable=False, comment=no_domain),
        sa.Column("asset", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False, comment=no_model),
        sa.Column("steps", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False, comment="Steps that failed."),
        *_used(),
        sa.PrimaryKeyConstraint("day", "domain", "asset", name="pk_cost_days"),
    )
    op.create_index("ix_cost_days_model_day", "cost_days", ["model", "day"])
    op.create_index("ix_cost_days_asset_day", "cost_days", ["asset", "day"])


def _used() -> list[sa.Column[float]]:
    return [
        sa.Column("wall_seconds", sa.Float(), nullable=False, comment="Elapsed time."),
        sa.Column(
            "cpu_seconds",
            sa.Float(),
            nullable=False,
            comment="Processor time of the process and its ended children, summed over cores.",
        ),
        sa.Column(
            "gpu_seconds", sa.Float(), nullable=False, comment="Time in which kernels ran, summed over accelerators."
        ),
        sa.Column(
            "peak_memory_bytes", sa.BigInteger(), nullable=False, comment="Highest resident memory of the process."
        ),
        sa.Column("bytes_written", sa.BigInteger(), nullable=False, comment="Bytes that the process sent to storage."),
        sa.Column(
            "money",
            sa.Float(),
            nullable=False,
            comment="Cost by the prices of that time, in the currency of params.yaml.",
        ),
    ]
