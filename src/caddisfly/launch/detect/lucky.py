"""Lucky, on Crystal: a static binary for the app and one for its tasks."""

from __future__ import annotations

from caddisfly.launch.detect import script
from caddisfly.launch.detect.findings import MANIFEST, NAMED, Evidence, File, Framework, Recipe, evidence
from caddisfly.launch.detect.folder import Folder, table
from caddisfly.launch.detect.javascript import package as javascript
from caddisfly.launch.detect.settings import Secret, env, postgres, release, settings, web
from caddisfly.launch.detect.versions import Interpreters, chosen, in_file, of_tools

_PORT = 8080
_DEFAULT = "1.14.1"


def _look(folder: Folder) -> tuple[Evidence, ...]:
    if "lucky" not in table(folder.yaml("shard.yml"), "dependencies"):
        return ()
    return evidence((True, "lucky in shard.yml", NAMED), (True, "shard.yml", MANIFEST))


def _cook(folder: Folder, local: Interpreters) -> Recipe:
    version = chosen(
        in_file(folder, ".crystal-version"),
        of_tools(folder, "crystal"),
        default=_DEFAULT,
    )
    package = javascript.read(folder)
    lock = ["shard.lock"] if folder.has("shard.lock") else []
    build = next((name for name in ("prod", "build") if package and name in package.scripts), "")
    text = script.text(
        f"ARG CRYSTAL_VERSION={version.value}",
        *(_assets(folder, package, build) if package and build else []),
        "FROM crystallang/crystal:${CRYSTAL_VERSION}-alpine AS build",
        "WORKDIR /src",
        "ENV LUCKY_ENV=production SKIP_LUCKY_TASK_PRECOMPILATION=1",
        "",
        "# What it needs, before the source: a changed line downloads nothing.",
        script.copy(["shard.yml", *lock]),
        "RUN shards install --production" if lock else "RUN shards install --without-development",
        "",
        "COPY . .",
        "COPY --from=assets /app/public ./public" if package and build else None,
        "RUN crystal build --static --release src/start_server.cr -o /server",
        "RUN crystal build --static --release tasks.cr -o /tasks" if folder.has("tasks.cr") else None,
        "",
        "FROM alpine:3.20",
        script.apk("ca-certificates", "tzdata"),
        script.ADD_USER_ALPINE,
        "WORKDIR /app",
        "COPY --from=build /server /app/bin/server",
        "COPY --from=build /tasks /app/bin/lucky" if folder.has("tasks.cr") else None,
        "COPY --from=build /src/public ./public" if folder.has_directory("public") or build else None,
        "ENV LUCKY_ENV=production PATH=/app/bin:$PATH",
        "",
        "USER app",
        f"EXPOSE {_PORT}",
        script.cmd(["/app/bin/server"]),
    )
    return Recipe(
        runtime="Crystal",
        version=version,
        start=("/app/bin/server",),
        settings=settings(
            web(_PORT, "what PORT tells Lucky"),
            env("PORT", _PORT, "Lucky listens there"),
            env("HOST", "0.0.0.0", "Lucky listens on 127.0.0.1 unless told"),
            env("LUCKY_ENV", "production", "errors are logged and not shown"),
            env("APP_DOMAIN", "https://{app}.fly.dev", "the name in Lucky's own links; {app} is the app's name"),
            release("lucky db.migrate", "migrations run once before each deploy"),
            Secret("SECRET_KEY_BASE", "Lucky signs sessions with it"),
            postgres("Lucky keeps its data in PostgreSQL"),
        ),
        files=(File("Dockerfile", text),),
        ignored=("lib", "bin", "**/node_modules", "tmp"),
        review=() if folder.has("tasks.cr") else ("there is no tasks.cr, which `lucky db.migrate` is built from",),
    )


def _assets(folder: Folder, package: javascript.Package, build: str) -> list[str | None]:
    yarn = package.packager in ("yarn", "berry")
    install = "yarn install --frozen-lockfile" if yarn else "npm ci" if package.lock else "npm install"
    return [
        f"FROM node:{javascript.NODE}-slim AS assets",
        "WORKDIR /app",
        script.copy(package.manifests(folder)),
        f"RUN {install}",
        "COPY . .",
        f"RUN {'yarn' if yarn else 'npm'} run {build}",
        "",
    ]


FRAMEWORK = Framework("lucky", "Lucky", _look, _cook)
