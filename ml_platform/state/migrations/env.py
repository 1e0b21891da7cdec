"""Alembic's environment: runs the migrations on the connection that `ml_platform.state.migrate` passes."""

from alembic import context

from ml_platform.state.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
