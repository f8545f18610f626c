"""Tokens that reach one app. The app takes them along when it goes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("tokens") as tokens:  # SQLite adds no constraint to a table: it makes it anew
        tokens.add_column(sa.Column("app_id", sa.String(32), nullable=True))
        tokens.create_foreign_key("fk_tokens_app_id", "apps", ["app_id"], ["id"], ondelete="CASCADE")
        tokens.create_index("ix_tokens_app_id", ["app_id"])
