"""Users, organizations, memberships, tokens, networks, apps, creations.

The tables are spelled out here, not taken from `tables.py`: a migration describes the past and must not change.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("email", sa.String(320), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("email", name="uq_users_email"),
    )
    op.create_table(
        "organizations",
        sa.Column("number", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("slug", sa.String(63), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_organizations"),
        sa.UniqueConstraint("id", name="uq_organizations_id"),
        sa.UniqueConstraint("slug", name="uq_organizations_slug"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "memberships",
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("org_id", sa.String(32), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_memberships_user_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["org_id"], ["organizations.id"], name="fk_memberships_org_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "org_id", name="pk_memberships"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("org_id", sa.String(32), nullable=True),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=True),
        sa.Column("revoked_ms", sa.BigInteger, nullable=True),
        sa.Column("last_used_ms", sa.BigInteger, nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_tokens_user_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["org_id"], ["organizations.id"], name="fk_tokens_org_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("hash", name="uq_tokens_hash"),
    )
    op.create_table(
        "networks",
        sa.Column("network_id", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("org_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.ForeignKeyConstraint(["org_id"], ["organizations.id"], name="fk_networks_org_id"),
        sa.PrimaryKeyConstraint("network_id", name="pk_networks"),
        sa.UniqueConstraint("org_id", "name", name="uq_networks_org_id_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "apps",
        sa.Column("number", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("org_id", sa.String(32), nullable=False),
        sa.Column("network_id", sa.Integer, nullable=False),
        sa.Column("app_role", sa.String(63), nullable=False),
        sa.Column("idempotency_key", sa.String(200), nullable=True),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("deleting_ms", sa.BigInteger, nullable=True),
        sa.ForeignKeyConstraint(["org_id"], ["organizations.id"], name="fk_apps_org_id"),
        sa.ForeignKeyConstraint(["network_id"], ["networks.network_id"], name="fk_apps_network_id"),
        sa.PrimaryKeyConstraint("number", name="pk_apps"),
        sa.UniqueConstraint("id", name="uq_apps_id"),
        sa.UniqueConstraint("name", name="uq_apps_name"),
        sa.UniqueConstraint("org_id", "idempotency_key", name="uq_apps_org_id_idempotency_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_apps_org_id", "apps", ["org_id"])
    op.create_table(
        "creations",
        sa.Column("app_id", sa.String(32), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("machine_id", sa.String(32), nullable=False),
        sa.Column("host_id", sa.String(32), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["app_id"], ["apps.id"], name="fk_creations_app_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("app_id", "key", name="pk_creations"),
    )


def downgrade() -> None:
    raise NotImplementedError("going back is restoring the backup")
