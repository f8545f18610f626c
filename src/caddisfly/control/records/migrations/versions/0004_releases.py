"""Releases of apps, and how many Machines each process group should have."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "releases",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("app_id", sa.String(32), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("strategy", sa.String(20), nullable=False),
        sa.Column("image_ref", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("progress", sa.Text, nullable=False),
        sa.Column("user_id", sa.String(32), nullable=True),
        sa.Column("nonce", sa.String(32), nullable=False),
        sa.Column("ttl_s", sa.BigInteger, nullable=False),
        sa.Column("idempotency_key", sa.String(200), nullable=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["app_id"], ["apps.id"], name="fk_releases_app_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_releases_user_id", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name="pk_releases"),
        sa.UniqueConstraint("app_id", "version", name="uq_releases_app_id_version"),
        sa.UniqueConstraint("app_id", "idempotency_key", name="uq_releases_app_id_idempotency_key"),
    )
    op.create_table(
        "scales",
        sa.Column("app_id", sa.String(32), nullable=False),
        sa.Column("process_group", sa.String(63), nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("regions", sa.Text, nullable=False),
        sa.Column("max_per_region", sa.BigInteger, nullable=True),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["app_id"], ["apps.id"], name="fk_scales_app_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("app_id", "process_group", name="pk_scales"),
    )
