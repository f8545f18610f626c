"""Databases and files of JavaScript apps, known from packages and from Prisma's schema."""

from __future__ import annotations

import re
from dataclasses import dataclass

from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.javascript.package import Package
from caddisfly.launch.detect.settings import (
    Default,
    Service,
    bucket,
    env,
    mongodb,
    mount,
    mysql,
    postgres,
    redis,
    release,
)

_MIGRATE = "npx prisma migrate deploy"
SCHEMAS = ("prisma/schema.prisma", "schema.prisma", "api/db/schema.prisma")


@dataclass(frozen=True, slots=True)
class Storage:
    """`before_start` is a command that has to run where the volume is, which a release command is not."""

    needs: tuple[Default | Service, ...]
    prisma: bool
    before_start: str
    writable: tuple[str, ...]


def storage(folder: Folder, package: Package) -> Storage:
    needs: list[Default | Service] = []
    schema = folder.first(*SCHEMAS)
    provider = _provider(folder, schema)
    prisma = package.has("prisma", "@prisma/client")
    in_package = "package.json"
    for names, make in (
        (("pg", "postgres", "pg-promise", "@neondatabase/serverless"), postgres),
        (("mysql", "mysql2", "mariadb"), mysql),
        (("redis", "ioredis", "bullmq", "connect-redis"), redis),
        (("mongodb", "mongoose"), mongodb),
        (("@aws-sdk/client-s3",), bucket),
    ):
        if name := package.first(*names):
            needs.append(make(f"{name} in {in_package}"))
    if provider in ("postgresql", "cockroachdb"):
        needs.append(postgres(f"the provider in {schema}"))
        needs.append(release(_MIGRATE, "migrations run once before each deploy"))
    elif provider == "mysql":
        needs.append(mysql(f"the provider in {schema}"))
        needs.append(release(_MIGRATE, "migrations run once before each deploy"))
    file = "" if provider else package.first("better-sqlite3", "sqlite3", "@libsql/client")
    sqlite = provider == "sqlite" or bool(file)
    if sqlite:
        why = f"the provider in {schema}" if provider else f"{file} in {in_package}"
        needs.append(mount("data", "/data", f"{why}: SQLite is a file, and only a volume keeps files"))
        needs.append(env("DATABASE_URL", "file:///data/sqlite.db", "where the volume is"))
    return Storage(
        tuple(needs), prisma, _MIGRATE if provider == "sqlite" and prisma else "", ("/data",) if sqlite else ()
    )


def _provider(folder: Folder, schema: str) -> str:
    """Of the datasource. Generators have one, too."""
    source = re.search(r"datasource\s+\w+\s*\{(.*?)\}", folder.text(schema), re.DOTALL) if schema else None
    found = re.search(r'provider\s*=\s*"(\w+)"', source[1]) if source else None
    return found[1] if found else ""
