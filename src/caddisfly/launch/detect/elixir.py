"""Elixir: Phoenix, and applications of Mix without it.

Fly asks the project's own generator for the image, which needs Elixir here and compiles the project here. The release
that `mix release` makes needs no file of that generator: migrations are run by the same few lines that it would write.
"""

from __future__ import annotations

import re

from caddisfly.launch.detect import script
from caddisfly.launch.detect.findings import MANIFEST, NAMED, Evidence, File, Framework, Recipe, evidence
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.settings import (
    Default,
    Secret,
    Service,
    env,
    mount,
    mysql,
    postgres,
    release,
    settings,
    stops_with,
    web,
)
from caddisfly.launch.detect.versions import Interpreters, Version, chosen, in_file, of_tools

_PORT = 8080
_DEFAULT = "1.18"
_OTP: dict[tuple[int, ...], str] = {(1, 14): "25", (1, 15): "26", (1, 16): "26", (1, 17): "27", (1, 18): "27"}
_IGNORED = ("_build", "deps", "assets/node_modules", "priv/static/assets", "erl_crash.dump", "*.ez")
_MIGRATOR = """\
#!/bin/sh
# Bring the database up to date. Run by the release_command of fly.toml.
exec /app/bin/{name} eval '
  Application.load(:{name})
  for repo <- Application.fetch_env!(:{name}, :ecto_repos) do
    {{:ok, _, _}} = Ecto.Migrator.with_repo(repo, &Ecto.Migrator.run(&1, :up, all: true))
  end
'
"""
_SERVER = """\
#!/bin/sh
# Start with the web server on; without PHX_SERVER a release starts silently without one.
PHX_SERVER=true exec /app/bin/{name} start
"""


def _depends(folder: Folder, name: str) -> bool:
    return folder.says("mix.exs", rf"^[^#\n]*\{{\s*:{name}\s*,")


def _look_phoenix(folder: Folder) -> tuple[Evidence, ...]:
    if not _depends(folder, "phoenix"):
        return ()
    return evidence((True, "phoenix in mix.exs", NAMED), (True, "mix.exs", MANIFEST))


def _look_elixir(folder: Folder) -> tuple[Evidence, ...]:
    return evidence((folder.has("mix.exs"), "mix.exs", MANIFEST), (folder.has("mix.lock"), "mix.lock", 10))


def _version(folder: Folder) -> Version:
    """`elixir: "~> 1.14"` is what a project begins at and not what it runs on, so it counts only if it is newer."""
    exact = chosen(
        of_tools(folder, "elixir"),
        in_file(folder, "elixir_buildpack.config", r"^elixir_version=v?(\d+\.\d+(?:\.\d+)?)"),
        default=_DEFAULT,
    ).short(2)
    return exact if exact.numbers in _OTP else Version(_DEFAULT, "the default")


def _name(folder: Folder) -> str:
    found = re.search(r"app:\s*:(\w+)", folder.text("mix.exs"))
    return found[1] if found else "app"


def _dockerfile(folder: Folder, version: Version, start: tuple[str, ...], *, writable: str = "", phoenix: bool) -> str:
    otp = _OTP[version.numbers]
    lock = ["mix.lock"] if folder.has("mix.lock") else []
    config = [f"config/{name}" for name in ("config.exs", "prod.exs") if folder.has(f"config/{name}")]
    assets = phoenix and folder.says("mix.exs", r"assets\.deploy")
    npm = folder.has("assets/package.json")
    tools = ["build-essential", "git", *(["nodejs", "npm"] if npm else [])]
    return script.text(
        f"ARG ELIXIR_VERSION={version.value}-otp-{otp}",
        "FROM elixir:${ELIXIR_VERSION}-slim AS build",
        script.apt(*tools),
        "WORKDIR /src",
        "ENV MIX_ENV=prod",
        "RUN mix local.hex --force && mix local.rebar --force",
        "",
        "# What it needs, before the source: a changed line compiles no dependency.",
        script.copy(["mix.exs", *lock]),
        "RUN mix deps.get --only prod",
        script.copy(config, "config/"),
        "RUN mix deps.compile",
        "RUN mkdir -p assets" if npm else None,
        script.copy(
            [path for path in ("assets/package.json", "assets/package-lock.json") if folder.has(path)], "assets/"
        ),
        "RUN npm install --prefix assets" if npm else None,
        "",
        "COPY . .",
        "RUN mix compile",
        "RUN mix assets.deploy" if assets else None,
        "RUN mix release && mv _build/prod/rel/* /release",
        "",
        "# The same Debian as Elixir's image: a release brings Erlang with it, and takes the C library from here.",
        "FROM debian:bookworm-slim",
        script.apt("ca-certificates", "libncurses6", "libstdc++6", "locales", "openssl"),
        "ENV LANG=C.UTF-8 MIX_ENV=prod",
        script.ADD_USER,
        "WORKDIR /app",
        "COPY --from=build --chown=app:app /release ./",
        script.owned(writable) if writable else None,
        "",
        "USER app",
        f"EXPOSE {_PORT}",
        script.cmd(start),
    )


def _cook_phoenix(folder: Folder, local: Interpreters) -> Recipe:
    version, name = _version(folder), _name(folder)
    parts: list[Default | Secret | Service] = [
        *web(_PORT, "what PORT tells Phoenix"),
        Default(
            ("http_service", "concurrency"),
            {"type": "connections", "hard_limit": 1000, "soft_limit": 1000},
            "Phoenix keeps connections open (LiveView), and many of them",
        ),
        env("PORT", _PORT, "Phoenix listens there"),
        env("PHX_HOST", "{app}.fly.dev", "the name in Phoenix's own links; {app} is the app's name"),
        stops_with("SIGTERM", "the signal on which Erlang shuts down in order"),
        Secret("SECRET_KEY_BASE", "Phoenix signs sessions with it"),
    ]
    database = _depends(folder, "postgrex") or _depends(folder, "myxql")
    sqlite = _depends(folder, "ecto_sqlite3")
    files = []
    start: tuple[str, ...] = ("/app/bin/server",)
    if not folder.has("rel/overlays/bin/server"):
        files.append(File("rel/overlays/bin/server", _SERVER.format(name=name), executable=True))
    if (database or sqlite) and not folder.has("rel/overlays/bin/migrate"):
        files.append(File("rel/overlays/bin/migrate", _MIGRATOR.format(name=name), executable=True))
    if database:
        make = postgres if _depends(folder, "postgrex") else mysql
        parts.append(make(f"{'postgrex' if make is postgres else 'myxql'} in mix.exs"))
        parts.append(release("/app/bin/migrate", "migrations run once before each deploy"))
    if sqlite:
        parts.append(mount("name", "/mnt/name", "SQLite is a file, and only a volume keeps files"))
        parts.append(env("DATABASE_PATH", f"/mnt/name/{name}.db", "where the volume is"))
        start = ("sh", "-c", "/app/bin/migrate && exec /app/bin/server")
    review = []
    if not folder.has("config/runtime.exs"):
        review.append(
            "there is no config/runtime.exs: the release must read PORT, PHX_HOST and SECRET_KEY_BASE somewhere"
        )
    text = _dockerfile(folder, version, start, writable="/mnt/name" if sqlite else "", phoenix=True)
    return Recipe(
        runtime="Elixir",
        version=version,
        start=start,
        settings=settings(parts),
        files=(File("Dockerfile", text), *files),
        ignored=_IGNORED,
        review=tuple(review),
    )


def _cook_elixir(folder: Folder, local: Interpreters) -> Recipe:
    version, name = _version(folder), _name(folder)
    start = (f"/app/bin/{name}", "start")
    return Recipe(
        runtime="Elixir",
        version=version,
        start=start,
        settings=settings(
            web(_PORT, "what PORT tells the app"),
            env("PORT", _PORT, "for a program that asks where to listen"),
            stops_with("SIGTERM", "the signal on which Erlang shuts down in order"),
        ),
        files=(File("Dockerfile", _dockerfile(folder, version, start, phoenix=False)),),
        ignored=_IGNORED,
    )


PHOENIX = Framework("phoenix", "Phoenix", _look_phoenix, _cook_phoenix, rich=True)
ELIXIR = Framework("elixir", "Elixir", _look_elixir, _cook_elixir, bare=True)
