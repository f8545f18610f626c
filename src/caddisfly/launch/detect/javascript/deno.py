"""Deno: its own configuration file, or a TypeScript file that could run nowhere else."""

from __future__ import annotations

import shlex

from caddisfly.launch.detect import script
from caddisfly.launch.detect.findings import ENTRY, FITS, NAMED, Evidence, File, Framework, Recipe, evidence
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.settings import env, process, settings, web
from caddisfly.launch.detect.versions import Interpreters, Version, chosen, in_file, of_tools

_PORT = 8080
_VERSION = "2.4.5"
_ENTRIES = tuple(f"{name}.ts" for name in ("main", "index", "app", "server", "mod"))
_OWN = r"https://deno\.land/|['\"](npm|jsr):|\bDeno\.serve\b"


def _look(folder: Folder) -> tuple[Evidence, ...]:
    config = folder.first("deno.json", "deno.jsonc")
    source = next((path for path in folder.sources(".ts", depth=1) if folder.says(path, _OWN)), "")
    if not (config or source):
        return ()
    return evidence(
        (config, config, NAMED),
        (source, f"{source} that imports as Deno does", ENTRY),
        (folder.has("deno.lock"), "deno.lock", FITS),
    )


def _cook(folder: Folder, local: Interpreters) -> Recipe:
    version = chosen(in_file(folder, ".dvmrc"), of_tools(folder, "deno"), default=_VERSION)
    if version.value.count(".") < 2:
        version = Version(_VERSION, f"the default; {version.origin} names no exact version")
    entry = folder.first(*_ENTRIES)
    review = () if entry else (f"none of {', '.join(_ENTRIES)} is there: name the entry in processes.app",)
    path = f"./{entry or 'main.ts'}"
    start = ("run", "-A", path)
    config = [name for name in ("deno.json", "deno.jsonc", "deno.lock", "package.json") if folder.has(name)]
    text = script.text(
        f"FROM denoland/deno:alpine-{version.value}",
        "WORKDIR /app",
        script.copy(config),
        "COPY . .",
        "# Fetched and compiled now, so that a start needs no network.",
        f"RUN deno cache {shlex.quote(path)} && chown -R deno:deno /deno-dir",
        "",
        "USER deno",
        f"ENV PORT={_PORT}",
        f"EXPOSE {_PORT}",
        'ENTRYPOINT ["deno"]',
        script.cmd(start),
    )
    return Recipe(
        runtime="Deno",
        version=version,
        start=start,
        settings=settings(
            web(_PORT, "what PORT tells the app"),
            env("PORT", _PORT, "for a program that asks where to listen"),
            process("app", shlex.join(start), "words behind the image's entry point, deno"),
        ),
        files=(File("Dockerfile", text),),
        ignored=("**/node_modules",),
        review=review,
    )


FRAMEWORK = Framework("deno", "Deno", _look, _cook)
