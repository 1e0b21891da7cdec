"""The first schema: catalog of the lake, landed files, cursors, serving, decisions.

Triggers keep the audit records: they can be added, and never changed or removed. The head of the log only moves
forward.
"""

from alembic import op

from ml_platform.state.schema import audit_head, metadata

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
    connection = op.get_bind()
    metadata.create_all(connection)
    op.bulk_insert(audit_head, [{"id": 1, "sequence": 0, "digest": GENESIS}])
    for statement in SQLITE if connection.dialect.name == "sqlite" else POSTGRES:
        op.execute(statement)
