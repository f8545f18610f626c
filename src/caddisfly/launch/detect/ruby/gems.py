"""Gemfile and Gemfile.lock."""

from __future__ import annotations

import re

from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.settings import Service, bucket, mysql, postgres, redis
from caddisfly.launch.detect.versions import Interpreters, Version, chosen, in_file, of_tools

DEFAULT = "3.3"
IGNORED = ("**/.bundle", "vendor/bundle", "log/*", "tmp/*", "coverage")
_LIBRARIES = {
    "pg": (("libpq-dev",), ("libpq5",)),
    "mysql2": (("default-libmysqlclient-dev",), ("libmariadb3",)),
    "trilogy": ((), ()),
    "sqlite3": (("libsqlite3-dev",), ("libsqlite3-0",)),
    "ruby-vips": ((), ("libvips42",)),
    "image_processing": ((), ("libvips42",)),
    "psych": (("libyaml-dev",), ("libyaml-0-2",)),
}


def has(folder: Folder, *names: str) -> str:
    """Where the first of them that is there is named, such as `rails in Gemfile.lock`; empty when none is."""
    for name in names:
        if folder.says("Gemfile.lock", rf"^    {re.escape(name)} \("):
            return f"{name} in Gemfile.lock"
        if folder.says("Gemfile", rf"^[ \t]*gem\s*\(?\s*['\"]{re.escape(name)}['\"]"):
            return f"{name} in Gemfile"
    return ""


def version(folder: Folder, local: Interpreters) -> Version:
    """Of Ruby itself."""
    return chosen(
        in_file(folder, "Gemfile.lock", r"^RUBY VERSION\n\s+ruby (\d+\.\d+\.\d+)"),
        in_file(folder, "Gemfile", r"^[ \t]*ruby\s*\(?\s*['\"]\D*(\d+\.\d+(?:\.\d+)?)"),
        in_file(folder, ".ruby-version", r"^[ \t]*(?:ruby-)?(\d+\.\d+(?:\.\d+)?)"),
        of_tools(folder, "ruby"),
        lambda: _local(local),
        default=DEFAULT,
    )


def _local(local: Interpreters) -> Version | None:
    match = re.match(r"(\d+)\.(\d+)\.\d+", local.version("ruby"))
    return Version(match[0], "ruby of this computer") if match and int(match[1]) >= 3 else None


def libraries(folder: Folder) -> tuple[list[str], list[str]]:
    """Packages of Debian that gems need to be built, and to run."""
    building, running = ["build-essential", "git", "libyaml-dev", "pkg-config"], ["ca-certificates", "libyaml-0-2"]
    for name, (early, late) in _LIBRARIES.items():
        if has(folder, name):
            building += early
            running += late
    return building, running


def services(folder: Folder) -> list[Service]:
    found = []
    for names, make in (
        (("pg",), postgres),
        (("mysql2", "trilogy"), mysql),
        (("redis", "sidekiq", "resque"), redis),
        (("aws-sdk-s3",), bucket),
    ):
        if where := has(folder, *names):
            found.append(make(where))
    return found


def manifests(folder: Folder) -> list[str]:
    return [name for name in ("Gemfile", "Gemfile.lock", ".ruby-version") if folder.has(name)]
