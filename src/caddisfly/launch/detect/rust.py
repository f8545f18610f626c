"""Rust: dependencies compiled by themselves with cargo-chef, which is most of the time that a build takes."""

from __future__ import annotations

import re

from caddisfly.launch.detect import script
from caddisfly.launch.detect.findings import ENTRY, FITS, MANIFEST, Evidence, File, Framework, Recipe, evidence
from caddisfly.launch.detect.folder import Folder, table, words
from caddisfly.launch.detect.settings import Default, Service, env, mysql, postgres, redis, settings, web
from caddisfly.launch.detect.versions import Interpreters, Version, chosen, in_file

_PORT = 8080
_CHEF = "0.1.71"
_TITLES = {"rocket": "Rocket", "actix-web": "Actix", "warp": "Warp", "axum": "Axum", "poem": "Poem"}


def _look(folder: Folder) -> tuple[Evidence, ...]:
    if not folder.has("Cargo.toml"):
        return ()
    web_framework = _web(folder)
    return evidence(
        (True, "Cargo.toml", MANIFEST),
        (folder.has("Cargo.lock"), "Cargo.lock", FITS),
        (folder.has("src/main.rs"), "src/main.rs", ENTRY),
        (web_framework, f"{web_framework} in Cargo.toml", FITS),
    )


def _web(folder: Folder) -> str:
    dependencies = table(folder.toml("Cargo.toml"), "dependencies")
    return next((name for name in _TITLES if name in dependencies), "")


def _version(folder: Folder) -> Version:
    channel = table(folder.toml("rust-toolchain.toml"), "toolchain").get("channel")
    exact = re.fullmatch(r"\d+\.\d+(\.\d+)?", str(channel))
    return chosen(
        Version(str(channel), "rust-toolchain.toml") if exact else None,
        in_file(folder, "rust-toolchain", r"^[ \t]*(\d+\.\d+(?:\.\d+)?)\s*$"),
        default="1",
    )


def _binary(folder: Folder) -> tuple[str, str, str]:
    """The program's name, the package to build (empty for the top one), and what to look at."""
    cargo = folder.toml("Cargo.toml")
    bins = cargo.get("bin")
    named = (
        [str(one["name"]) for one in bins if isinstance(one, dict) and "name" in one] if isinstance(bins, list) else []
    )
    package = table(cargo, "package")
    if package:
        default = str(package.get("default-run") or "")
        name = default or (named[0] if named else str(package.get("name") or "app"))
        several = f"there are several programs ({', '.join(named)}); {name} is started" if len(named) > 1 else ""
        library = (
            "" if named or folder.has("src/main.rs") else "there is no src/main.rs: name the program in the Dockerfile"
        )
        return name, "", several or library
    found = []
    for member in words(table(cargo, "workspace").get("members")):
        parent, _, last = member.rpartition("/")
        below = (
            [f"{parent}/{name}" if parent else name for name in sorted(folder.names(parent))]
            if last == "*"
            else [member]
        )
        found += [path for path in below if folder.has(f"{path}/src/main.rs")]
    if not found:
        return "app", "", "no program was found in the workspace: name it in the Dockerfile"
    name = str(table(folder.toml(f"{found[0]}/Cargo.toml"), "package").get("name") or found[0].rpartition("/")[2])
    others = f"there are several programs ({', '.join(found)}); {found[0]} is built" if len(found) > 1 else ""
    return name, name, others


def _cook(folder: Folder, local: Interpreters) -> Recipe:
    version = _version(folder)
    name, package, doubt = _binary(folder)
    framework = _web(folder)
    only = f" --package {package}" if package else ""
    defaults: list[Default] = [
        *web(_PORT, "what PORT tells the app"),
        env("PORT", _PORT, "for a program that asks where to listen"),
    ]
    if framework == "rocket":
        defaults.append(env("ROCKET_PORT", _PORT, "Rocket listens on 8000 unless told"))
        defaults.append(env("ROCKET_ADDRESS", "0.0.0.0", "Rocket listens on 127.0.0.1 unless told"))
    locked = " --locked" if folder.has("Cargo.lock") else ""
    text = script.text(
        f"ARG RUST_VERSION={version.value}",
        "FROM rust:${RUST_VERSION}-bookworm AS chef",
        f"RUN cargo install cargo-chef --locked --version {_CHEF}",
        "WORKDIR /src",
        "",
        "FROM chef AS plan",
        "COPY . .",
        "RUN cargo chef prepare --recipe-path recipe.json",
        "",
        "FROM chef AS build",
        "# What it needs, before the source: a changed line compiles no dependency.",
        "COPY --from=plan /src/recipe.json recipe.json",
        f"RUN cargo chef cook --release{only} --recipe-path recipe.json",
        "COPY . .",
        f"RUN cargo build --release{locked}{only} --bin {name}",
        "",
        "FROM debian:bookworm-slim",
        script.apt("ca-certificates", "libssl3"),
        script.ADD_USER,
        f"COPY --from=build /src/target/release/{name} /usr/local/bin/{name}",
        "WORKDIR /app",
        *(
            f"COPY {path} ./{path}"
            for path in ("templates", "static", "public", "migrations")
            if path in folder.directories
        ),
        "",
        "USER app",
        f"EXPOSE {_PORT}",
        script.cmd([f"/usr/local/bin/{name}"]),
    )
    notes = [f"{_TITLES[framework]} must listen on 0.0.0.0:{_PORT}"] if framework and framework != "rocket" else []
    review = [doubt] if doubt else []
    if not folder.has("Cargo.lock"):
        review.append("there is no Cargo.lock: run `cargo generate-lockfile`, so that every build is the same")
    return Recipe(
        runtime="Rust",
        version=version,
        start=(f"/usr/local/bin/{name}",),
        settings=settings(defaults, _services(folder)),
        files=(File("Dockerfile", text),),
        ignored=("target",),
        review=tuple(review),
        notes=tuple(notes),
    )


def _services(folder: Folder) -> list[Service]:
    found = []
    for expression, make in (
        (r"^(tokio-postgres|postgres)\b|^(sqlx|diesel|sea-orm)\b.*postgres", postgres),
        (r"^(sqlx|diesel|sea-orm)\b.*mysql", mysql),
        (r"^redis\b", redis),
    ):
        if folder.says("Cargo.toml", expression):
            found.append(make("its crate in Cargo.toml"))
    return found


FRAMEWORK = Framework("rust", "Rust", _look, _cook)
