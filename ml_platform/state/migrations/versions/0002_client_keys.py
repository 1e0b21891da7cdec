"""The clients of the gateway with their limits, and their API keys as hashes."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "clients",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("requests_per_second", sa.BigInteger(), nullable=False),
        sa.Column("burst", sa.BigInteger(), nullable=False, comment="Requests at once after a pause."),
        sa.Column("requests_per_day", sa.BigInteger(), nullable=True, comment="Quota of a day in UTC; null: none."),
        sa.Column("concurrency", sa.BigInteger(), nullable=False, comment="Requests under way in one service."),
        sa.Column("models", sa.Text(), nullable=True, comment="JSON: models that it may ask; null: all."),
        sa.PrimaryKeyConstraint("name", name="pk_clients"),
    )
    op.create_table(
        "client_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("secret_sha1", sa.Text(), nullable=False, comment="SHA-1 of the random secret, Base64."),
        sa.Column("created_at", sa.Text(), nullable=False, comment="ISO 8601, UTC."),
        sa.Column("valid_until", sa.Text(), nullable=True, comment="End after a rotation; ISO 8601, UTC."),
        sa.Column("revoked_at", sa.Text(), nullable=True, comment="ISO 8601, UTC."),
        sa.ForeignKeyConstraint(["client"], ["clients.name"], name="fk_client_keys_client"),
        sa.PrimaryKeyConstraint("id", name="pk_client_keys"),
    )
