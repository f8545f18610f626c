"""Images of JavaScript apps: one that runs a server, and one that serves the files of a finished build.

Dependencies are installed from the lock file before the source is copied. The server is started by itself and not by
its packager, which would stand between it and the signal to stop.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from caddisfly.launch.detect import nginx, script
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.javascript.package import PNPM, Package
from caddisfly.launch.detect.versions import Version

_BEFORE_SOURCE = "# What it needs, before the source: a changed line installs nothing."
IGNORED = ("**/node_modules", "**/npm-debug.log*", "**/.next", "**/.nuxt", "**/.output", "**/.turbo", "**/coverage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """`kept` are pairs: what of the build is kept, and where; without, all of it is. `prune` drops what builds need."""

    version: Version
    package: Package
    start: Sequence[str]
    port: int
    build: str = "build"
    builds: str = ""
    kept: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, object], ...] = ()
    writable: tuple[str, ...] = ()
    prune: bool = True
    prisma: bool = False
    libraries: tuple[str, ...] = ()

    def dockerfile(self, folder: Folder) -> str:
        user = "bun" if self.package.packager == "bun" else "node"
        whole = [("/app", "/app")] if not self.kept else [(f"/app/{source}", target) for source, target in self.kept]
        environment = {"NODE_ENV": "production", "PORT": self.port, **dict(self.environment)}
        libraries = [*self.libraries, *(["ca-certificates", "openssl"] if self.prisma else [])]
        return script.text(
            *building(folder, self.package, self.version, build=self.build, builds=self.builds, prisma=self.prisma),
            "",
            "# Without what only the build needed." if self.prune and not self.kept else None,
            _prune(self.package) if self.prune and not self.kept else None,
            "",
            "FROM base",
            script.env(**environment),
            "ENV PATH=/app/node_modules/.bin:$PATH" if not self.kept else None,
            script.apt(*libraries),
            *(f"COPY --from=build {source} {target}" for source, target in whole),
            script.owned(*self.writable, user=user) if self.writable else None,
            "",
            f"USER {user}",
            f"EXPOSE {self.port}",
            script.cmd(self.start),
        )


def of_files(folder: Folder, package: Package, version: Version, *, output: str, build: str, builds: str) -> str:
    """A build whose result is files."""
    return script.text(
        *building(folder, package, version, build=build, builds=builds),
        "",
        *nginx.serving(f"--from=build /app/{output}", single_page=True),
    )


def building(
    folder: Folder, package: Package, version: Version, *, build: str, builds: str, prisma: bool = False
) -> list[str | None]:
    name = "BUN" if package.packager == "bun" else "NODE"
    image = "oven/bun" if package.packager == "bun" else "node"
    early = [path for path in ("prisma/schema.prisma", "prisma.config.ts") if prisma and folder.has(path)]
    command = " ".join(package.runs(build)) if build in package.scripts else builds and f"{_npx(package)} {builds}"
    tools = ["build-essential", "pkg-config", "python3"] if package.native else []
    return [
        f"ARG {name}_VERSION={version.value}",
        f"FROM {image}:${{{name}_VERSION}}-slim AS base",
        "WORKDIR /app",
        "",
        "FROM base AS build",
        script.apt(*tools, *(["ca-certificates", "openssl"] if prisma else [])),
        _tool(package, folder),
        "",
        "# An installation needs the source here." if package.whole else _BEFORE_SOURCE,
        "COPY . ." if package.whole else script.copy(package.manifests(folder)),
        *(["COPY .yarn ./.yarn"] if package.packager == "berry" and folder.has_directory(".yarn/releases") else []),
        *(script.copy([path], f"./{path}") for path in early),
        f"RUN {_install(package)}",
        "",
        None if package.whole else "COPY . .",
        f"RUN {_npx(package)} prisma generate" if prisma else None,
        f"RUN NODE_ENV=production {command}" if command else None,
    ]


def _tool(package: Package, folder: Folder) -> str | None:
    if package.packager == "pnpm":
        said = re.match(r"pnpm@(\d+(?:\.\d+)*)", package.manager)
        return f"RUN npm install --global pnpm@{said[1] if said else PNPM}"
    if package.packager == "berry":
        return "ENV YARN_NODE_LINKER=node-modules COREPACK_ENABLE_DOWNLOAD_PROMPT=0\nRUN corepack enable"
    return None


def _install(package: Package) -> str:
    frozen = bool(package.lock)
    match package.packager:
        case "pnpm":
            return "pnpm install --frozen-lockfile --prod=false" if frozen else "pnpm install --prod=false"
        case "yarn":
            return "yarn install --frozen-lockfile --production=false" if frozen else "yarn install --production=false"
        case "berry":
            return "yarn install --immutable" if frozen else "yarn install"
        case "bun":
            return "bun install --frozen-lockfile" if frozen else "bun install"
        case _:
            return "npm ci --include=dev" if frozen else "npm install --include=dev"


def _prune(package: Package) -> str:
    match package.packager:
        case "pnpm":
            return "RUN CI=true pnpm prune --prod"
        case "yarn":
            return "RUN yarn install --production=true --ignore-scripts --prefer-offline"
        case "berry":
            return "RUN yarn workspaces focus --all --production"
        case "bun":
            return "RUN rm -rf node_modules && bun install --production"
        case _:
            return "RUN npm prune --omit=dev"


def _npx(package: Package) -> str:
    return {"bun": "bunx", "pnpm": "pnpm exec", "yarn": "yarn", "berry": "yarn"}.get(package.packager, "npx")
