"""From a plan of a family to its recipe, and Node and Bun without a family."""

from __future__ import annotations

import re
from collections.abc import Callable

from caddisfly.launch.detect import script
from caddisfly.launch.detect.findings import (
    ENTRY,
    FITS,
    MANIFEST,
    NAMED,
    Evidence,
    File,
    Framework,
    Recipe,
    evidence,
)
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.javascript import image
from caddisfly.launch.detect.javascript.families import FAMILIES, Family, Plan
from caddisfly.launch.detect.javascript.package import Package, read, version
from caddisfly.launch.detect.javascript.storage import storage
from caddisfly.launch.detect.settings import NGINX_STOP, settings, web
from caddisfly.launch.detect.versions import Interpreters, Version
from caddisfly.model.errors import FailedPrecondition

_ENTRIES = tuple(f"{directory}{name}" for name in ("server.js", "index.js", "app.js") for directory in ("", "src/"))
_TYPED = tuple(path.removesuffix(".js") + ".ts" for path in _ENTRIES)


def needed(folder: Folder, name: str) -> Package:
    """Raises `FailedPrecondition` when there is no package.json to go by."""
    package = read(folder)
    if package is None:
        why = next((doubt for doubt in folder.doubts if doubt.startswith("package.json")), "")
        raise FailedPrecondition(
            f"there is no package.json in {folder.root}",
            why=why or f"{name} cannot be built without one",
            next="npm init",
        )
    return package


def _looking(family: Family) -> Callable[[Folder], tuple[Evidence, ...]]:
    def look(folder: Folder) -> tuple[Evidence, ...]:
        package = read(folder)
        file = folder.first(*family.file)
        found = package.first(*family.packages) if package else ""
        if package is None or not (found or file):
            return ()
        if family.tool and "start" in package.scripts and not package.for_development("start"):
            preview = re.search(r"\b(vite preview|serve)\b", package.scripts["start"])
            if not preview:
                return ()
        return evidence(
            (file, file, NAMED),
            (found, f"{found} in package.json", ENTRY if family.tool else NAMED),
            (True, "package.json", MANIFEST),
            (package.lock, package.lock, FITS),
        )

    return look


def _cooking(family: Family) -> Callable[[Folder, Interpreters], Recipe]:
    def cook(folder: Folder, local: Interpreters) -> Recipe:
        package = needed(folder, family.title)
        plan = family.plan(folder, package)
        if family.name == "meteor":
            return _meteor(folder, package, plan)
        return cooked(folder, package, plan, local, why=f"{family.title}'s port")

    return cook


def cooked(folder: Folder, package: Package, plan: Plan, local: Interpreters, *, why: str) -> Recipe:
    found = version(folder, package, local)
    runtime = "Bun" if package.packager == "bun" else "Node.js"
    review = list(plan.review)
    if plan.build not in package.scripts and not plan.builds and (plan.output or plan.kept):
        review.append(
            f"package.json has no script {plan.build}, which the image needs to make {plan.output or plan.kept[0][0]}/"
        )
    if plan.output:
        return Recipe(
            runtime=runtime,
            version=found,
            start=("nginx", "-g", "daemon off;"),
            settings=settings(web(plan.port, "the port that nginx is told"), NGINX_STOP, plan.needs),
            files=(
                File(
                    "Dockerfile",
                    image.of_files(folder, package, found, output=plan.output, build=plan.build, builds=plan.builds),
                ),
            ),
            ignored=image.IGNORED,
            review=tuple(review),
        )
    stored = storage(folder, package)
    start = plan.start
    if stored.before_start:
        start = ("sh", "-c", f"{stored.before_start} && exec {' '.join(start)}")
    whole = _kept(plan, keep_all=stored.prisma)
    server = image.Server(
        version=found,
        package=package,
        start=start,
        port=plan.port,
        build=plan.build,
        builds=plan.builds,
        kept=whole,
        environment=plan.environment,
        writable=(*plan.writable, *stored.writable),
        prune=not stored.prisma or "prisma" in package.production,
        prisma=stored.prisma,
    )
    return Recipe(
        runtime=runtime,
        version=found,
        start=start,
        settings=settings(web(plan.port, why), plan.needs, stored.needs),
        files=(File("Dockerfile", server.dockerfile(folder)),),
        ignored=image.IGNORED,
        review=tuple(review),
    )


def _kept(plan: Plan, *, keep_all: bool) -> tuple[tuple[str, str], ...]:
    """Prisma's migrations need its command and its files, which a build that keeps only its result does not have."""
    if not keep_all or not plan.kept:
        return plan.kept
    beside = [(path, f"/app/{path}") for path in ("node_modules", "prisma", "package.json")]
    return (*beside, *plan.kept)


def _meteor(folder: Folder, package: Package, plan: Plan) -> Recipe:
    said = re.search(r"METEOR@([\d.]+)", folder.text(".meteor/release"))
    release = said[1] if said else "3.1"
    node = "22" if int(release.split(".")[0]) >= 3 else "14"
    text = script.text(
        f"FROM node:{node} AS build",
        "WORKDIR /src",
        f"RUN npm install --global meteor@{release} --unsafe-perm",
        "ENV METEOR_ALLOW_SUPERUSER=1",
        "",
        "# What it needs, before the source: a changed line installs nothing.",
        script.copy(package.manifests(folder)),
        "RUN meteor npm ci || meteor npm install",
        "COPY . .",
        "RUN meteor build --directory /out --server-only",
        "RUN cd /out/bundle/programs/server && npm install --omit=dev",
        "",
        f"FROM node:{node}-slim",
        script.env(NODE_ENV="production", PORT=plan.port),
        "WORKDIR /app",
        "COPY --from=build /out/bundle ./",
        "",
        "USER node",
        f"EXPOSE {plan.port}",
        script.cmd(plan.start),
    )
    return Recipe(
        runtime="Meteor",
        version=Version(release, ".meteor/release" if said else "the default"),
        start=plan.start,
        settings=settings(web(plan.port, "what PORT tells Meteor"), plan.needs),
        files=(File("Dockerfile", text),),
        ignored=(*image.IGNORED, ".meteor/local"),
        review=("Meteor needs a MongoDB: set MONGO_URL",),
    )


def _node(folder: Folder) -> tuple[Evidence, ...]:
    return _plain(folder, bun=False)


def _bun(folder: Folder) -> tuple[Evidence, ...]:
    return _plain(folder, bun=True)


def _plain(folder: Folder, *, bun: bool) -> tuple[Evidence, ...]:
    package = read(folder)
    if package is None or (package.packager == "bun") != bun:
        return ()
    entry = _entry(folder, package)
    starts = "start" in package.scripts and not package.for_development("start")
    if not (starts or entry):
        return ()
    return evidence(
        (True, "package.json", MANIFEST),
        (starts, f"its script start ({package.scripts.get('start', '')})", ENTRY),
        (entry, entry, FITS),
        (package.lock, package.lock, FITS),
    )


def _entry(folder: Folder, package: Package) -> str:
    typed = _TYPED if package.packager == "bun" else ()
    return folder.first(*([package.main] if package.main else []), *_ENTRIES, *typed)


def _cook_plain(folder: Folder, local: Interpreters) -> Recipe:
    package = needed(folder, "Node.js")
    entry = _entry(folder, package)
    program = "bun" if package.packager == "bun" else "node"
    review = []
    start = package.script("start")
    if not start or package.for_development("start"):
        start = (program, entry or "index.js")
        review.append(f"package.json has no script start for production: `{' '.join(start)}` is a guess")
    port, why = _port(folder)
    plan = Plan(port=port, start=start, environment=(("HOST", "0.0.0.0"),), review=tuple(review))
    return cooked(folder, package, plan, local, why=why)


def _port(folder: Folder) -> tuple[int, str]:
    """As the sources say it, else what most listen on."""
    for path in (*_ENTRIES, *_TYPED):
        match = re.search(r"(?i)(?:port|listen)\D{0,40}?\b([3-9]\d{3})\b", folder.text(path))
        if match:
            return int(match[1]), f"{path} listens there"
    return 3000, "what most Node.js apps listen on; PORT says it to the app"


def _families() -> tuple[Framework, ...]:
    return tuple(
        Framework(family.name, family.title, _looking(family), _cooking(family), rich=True) for family in FAMILIES
    )


FRAMEWORKS = (
    *_families(),
    Framework("bun", "Bun", _bun, _cook_plain, rich=True, bare=True),
    Framework("node", "Node.js", _node, _cook_plain, rich=True, bare=True),
)
