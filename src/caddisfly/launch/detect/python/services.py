"""Databases and the like, known from the packages that talk to them."""

from __future__ import annotations

from collections.abc import Iterator

from caddisfly.launch.detect.python.packages import Packages
from caddisfly.launch.detect.settings import Service, bucket, mongodb, mysql, postgres, redis

_POSTGRES = ("psycopg", "psycopg2", "psycopg2-binary", "psycopg-binary", "asyncpg", "pg8000")
_MYSQL = ("mysqlclient", "pymysql", "aiomysql", "mysql-connector-python")
_REDIS = ("redis", "django-redis", "hiredis", "aioredis", "rq", "channels-redis")
_MONGO = ("pymongo", "motor", "mongoengine", "beanie")
_BUCKET = ("boto3", "boto", "aioboto3", "django-storages")


def services(packages: Packages) -> Iterator[Service]:
    for names, make in (
        (_POSTGRES, postgres),
        (_MYSQL, mysql),
        (_REDIS, redis),
        (_MONGO, mongodb),
        (_BUCKET, bucket),
    ):
        name = next((name for name in names if packages.has(name)), "")
        if name:
            yield make(packages.where(name))
