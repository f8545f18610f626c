"""RedwoodJS: an API and a web side in one repository, both served by one process."""

from __future__ import annotations

import re

from caddisfly.launch.detect import script
from caddisfly.launch.detect.findings import MANIFEST, NAMED, Evidence, File, Framework, Recipe, evidence
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.javascript import image
from caddisfly.launch.detect.javascript.cooking import needed
from caddisfly.launch.detect.javascript.package import version
from caddisfly.launch.detect.javascript.storage import storage
from caddisfly.launch.detect.settings import Default, Service, settings, web
from caddisfly.launch.detect.versions import Interpreters

_PORT = 8910
_MIGRATE = "rw prisma migrate deploy"


def _look(folder: Folder) -> tuple[Evidence, ...]:
    if not folder.has("redwood.toml"):
        return ()
    return evidence((True, "redwood.toml", NAMED), (folder.has("package.json"), "package.json", MANIFEST))


def _cook(folder: Folder, local: Interpreters) -> Recipe:
    package = needed(folder, "Redwood")
    found = version(folder, package, local)
    stored = storage(folder, package)
    sides = [path for path in ("api/package.json", "web/package.json") if folder.has(path)]
    migrates = any(isinstance(one, Service) and one.kind in ("postgres", "mysql") for one in stored.needs)
    needs = [one for one in stored.needs if not (isinstance(one, Default) and one.path[0] == "deploy")]
    if migrates:
        needs.append(Default(("deploy", "release_command"), _MIGRATE, "migrations run once before each deploy"))
    start: tuple[str, ...] = ("rw", "serve", "--port", str(_PORT), "--host", "0.0.0.0")
    if stored.writable:
        start = ("sh", "-c", f"{_MIGRATE} && exec {' '.join(start)}")
    text = script.text(
        f"ARG NODE_VERSION={found.value}",
        "FROM node:${NODE_VERSION}-slim AS build",
        script.apt("ca-certificates", "openssl"),
        "ENV YARN_NODE_LINKER=node-modules COREPACK_ENABLE_DOWNLOAD_PROMPT=0",
        "RUN corepack enable",
        "WORKDIR /app",
        "",
        "# What it needs, before the source: a changed line installs nothing.",
        script.copy(package.manifests(folder)),
        "COPY .yarn ./.yarn"
        if folder.has_directory(".yarn") and re.search(r"yarnPath", folder.text(".yarnrc.yml"))
        else None,
        *(script.copy([path], f"./{path}") for path in sides),
        "RUN yarn install --immutable" if package.lock else "RUN yarn install",
        "",
        "COPY . .",
        "RUN yarn rw build",
        "",
        "FROM node:${NODE_VERSION}-slim",
        script.apt("ca-certificates", "openssl"),
        "# Without yarn: corepack would fetch it at each start.",
        "ENV NODE_ENV=production PATH=/app/node_modules/.bin:$PATH",
        "WORKDIR /app",
        "COPY --from=build /app /app",
        script.owned(*stored.writable, user="node") if stored.writable else None,
        "",
        "USER node",
        f"EXPOSE {_PORT}",
        script.cmd(start),
    )
    return Recipe(
        runtime="Node.js",
        version=found,
        start=start,
        settings=settings(web(_PORT, "Redwood's port"), needs),
        files=(File("Dockerfile", text),),
        ignored=image.IGNORED,
    )


FRAMEWORK = Framework("redwood", "RedwoodJS", _look, _cook, rich=True)
