"""Alembic's entry. The connection and its transaction are the caller's (`schema.py`)."""

from __future__ import annotations

from alembic import context

from caddisfly.control.records.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
