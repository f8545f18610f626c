"""Secrets of apps, sealed, and the version of each app's set of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "secret_versions",
        sa.Column("app_id", sa.String(32), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["app_id"], ["apps.id"], name="fk_secret_versions_app_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("app_id", name="pk_secret_versions"),
    )
    op.create_table(
        "secrets",
        sa.Column("app_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("sealed", sa.Text, nullable=False),
        sa.Column("digest", sa.String(32), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["app_id"], ["apps.id"], name="fk_secrets_app_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("app_id", "name", name="pk_secrets"),
    )
