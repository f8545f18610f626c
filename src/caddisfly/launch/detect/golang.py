"""Go: one static binary, on a Debian that has nothing else."""

from __future__ import annotations

import re

from caddisfly.launch.detect import script
from caddisfly.launch.detect.findings import ENTRY, FITS, MANIFEST, Evidence, File, Framework, Recipe, evidence
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.settings import (
    Service,
    build_argument,
    env,
    mongodb,
    mysql,
    postgres,
    redis,
    settings,
    web,
)
from caddisfly.launch.detect.versions import Interpreters, chosen, in_file

_PORT = 8080
_BESIDE = ("templates", "static", "public", "assets", "views", "web", "migrations")
_MAIN = r"^package main\b"
_SERVICES = (
    (r"github\.com/(lib/pq|jackc/pgx)|gorm\.io/driver/postgres", postgres),
    (r"github\.com/go-sql-driver/mysql|gorm\.io/driver/mysql", mysql),
    (r"github\.com/(redis/go-redis|go-redis/redis|gomodule/redigo)", redis),
    (r"go\.mongodb\.org/mongo-driver", mongodb),
)


def _look(folder: Folder) -> tuple[Evidence, ...]:
    if not folder.has("go.mod"):
        return ()
    main, _ = _package(folder)
    return evidence(
        (True, "go.mod", MANIFEST),
        (main, f"package main in {main}", ENTRY),
        (folder.has("go.sum"), "go.sum", FITS),
    )


def _package(folder: Folder) -> tuple[str, list[str]]:
    """The directory of the program, and the others that it could be. Fly builds the top and nothing else."""
    if any(folder.says(path, _MAIN) for path in folder.sources(".go", depth=1)):
        return ".", []
    module = re.search(r"^module\s+(\S+)", folder.text("go.mod"), re.MULTILINE)
    name = module[1].rpartition("/")[2] if module else ""
    found = {
        path.rpartition("/")[0]
        for path in folder.sources(".go")
        if not path.endswith("_test.go") and folder.says(path, _MAIN)
    }
    order = sorted(found, key=lambda path: (path.rpartition("/")[2] not in (name, "server", "api", "web"), path))
    return (f"./{order[0]}", order[1:]) if order else ("", [])


def _cook(folder: Folder, local: Interpreters) -> Recipe:
    version = chosen(
        in_file(folder, "go.mod", r"^toolchain go(\d+\.\d+(?:\.\d+)?)"),
        in_file(folder, "go.mod", r"^go\s+(\d+(?:\.\d+){0,2})"),
        default="1",
    )
    main, others = _package(folder)
    review = [] if main else ["no `package main` was found: name the program in the Dockerfile's go build"]
    if others:
        review.append(f"there are several programs; {main} is built, and not {', '.join(others)}")
    if not folder.has("go.sum") and folder.says("go.mod", r"^[ \t]*require\b"):
        review.append("there is no go.sum: run `go mod tidy`, or the build cannot verify what it downloads")
    native = folder.says("go.mod", r"mattn/go-sqlite3|confluentinc/confluent-kafka-go")
    embedded = folder.source_saying(r"^//go:embed", ".go")
    beside = [] if embedded else [name for name in _BESIDE if name in folder.directories]
    text = script.text(
        f"ARG GO_VERSION={version.value}",
        "FROM golang:${GO_VERSION}-bookworm AS build",
        "WORKDIR /src",
        "",
        "# What it needs, before the source: a changed line downloads nothing.",
        script.copy([name for name in ("go.mod", "go.sum") if folder.has(name)]),
        None if folder.has_directory("vendor") else "RUN go mod download",
        "",
        "COPY . .",
        f'RUN CGO_ENABLED={int(native)} go build -trimpath -ldflags="-s -w" -o /run-app {main or "."}',
        "",
        "FROM debian:bookworm-slim",
        script.ADD_USER,
        f"COPY --from=build {script.CERTIFICATES} {script.CERTIFICATES}",
        "COPY --from=build /run-app /usr/local/bin/run-app",
        "WORKDIR /app",
        *(f"COPY {name} ./{name}" for name in beside),
        "",
        "USER app",
        f"ENV PORT={_PORT}",
        f"EXPOSE {_PORT}",
        script.cmd(["run-app"]),
    )
    needs: list[Service] = [
        make("its driver in go.mod") for expression, make in _SERVICES if folder.says("go.mod", expression)
    ]
    return Recipe(
        runtime="Go",
        version=version,
        start=("run-app",),
        settings=settings(
            web(_PORT, "what PORT tells the app"),
            env("PORT", _PORT, "for a program that asks where to listen"),
            build_argument("GO_VERSION", version.value, f"from {version.origin}"),
            needs,
        ),
        files=(File("Dockerfile", text),),
        ignored=("**/*_test.go", "bin"),
        review=tuple(review),
    )


FRAMEWORK = Framework("go", "Go", _look, _cook)
