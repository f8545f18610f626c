"""package.json, and the packager that its lock file belongs to."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from caddisfly.launch.detect.folder import Folder, table
from caddisfly.launch.detect.versions import Interpreters, Version, chosen, in_file, lowest, of_tools

Packager = Literal["npm", "yarn", "berry", "pnpm", "bun"]
NODE, BUN, PNPM = "22", "1", "9"
_OLDEST_NODE = 16
_OLDEST_BUN = (0, 5, 3)
_LOCKS: tuple[tuple[str, Packager], ...] = (
    ("bun.lockb", "bun"),
    ("bun.lock", "bun"),
    ("pnpm-lock.yaml", "pnpm"),
    ("yarn.lock", "yarn"),
    ("package-lock.json", "npm"),
    ("npm-shrinkwrap.json", "npm"),
)
_BESIDE = (".npmrc", ".yarnrc.yml", ".yarnrc", "pnpm-workspace.yaml", ".pnpmfile.cjs", "bunfig.toml")
_FOR_DEVELOPMENT = re.compile(
    r"\b(nodemon|ts-node-dev|webpack-dev-server|react-scripts start|ng serve|vue-cli-service serve|tsx watch|next dev|"
    r"nuxt dev|astro dev|remix dev|nest start|meteor|gatsby develop)\b|--watch\b|(^|\s)vite(\s+dev)?$"
)
_NATIVE = "argon2 bcrypt better-sqlite3 canvas node-sass sqlite3 usb serialport cpu-features".split()


@dataclass(frozen=True, slots=True)
class Package:
    production: Mapping[str, object]
    development: Mapping[str, object]
    scripts: Mapping[str, str]
    packager: Packager
    lock: str
    engine: str
    manager: str
    """`packageManager`, such as `pnpm@9.12.0`."""
    main: str
    whole: bool
    """Whether an installation needs the source: for packages inside of it, or for a script that runs then."""

    def has(self, *names: str) -> bool:
        return any(name in self.production or name in self.development for name in names)

    def first(self, *names: str) -> str:
        return next((name for name in names if self.has(name)), "")

    @property
    def native(self) -> bool:
        """Whether it has packages that may have to be compiled."""
        return self.has(*_NATIVE)

    def script(self, name: str) -> tuple[str, ...]:
        """A script as words to be started without a shell and without a packager in between, so that signals arrive.

        A script that needs a shell, or has others around it, is left to the packager. Empty when there is none.
        """
        text = self.scripts.get(name, "").strip()
        if not text:
            return ()
        if f"pre{name}" in self.scripts or f"post{name}" in self.scripts or re.search(r"[|&;<>$`*(){}~\n]|^\w+=", text):
            return self.started(name)
        try:
            words = tuple(shlex.split(text))
        except ValueError:
            return self.started(name)
        runner = words[0] in ("npm", "yarn", "pnpm", "bun", "npx") and self.packager != "bun"
        return self.started(name) if runner else words

    def started(self, name: str) -> tuple[str, ...]:
        """In the finished image, where npm came with Node and no other packager is."""
        return ("bun" if self.packager == "bun" else "npm", "run", name)

    def runs(self, name: str) -> tuple[str, ...]:
        return ("yarn" if self.packager == "berry" else self.packager, "run", name)

    def for_development(self, name: str) -> bool:
        return bool(_FOR_DEVELOPMENT.search(self.scripts.get(name, "")))

    def manifests(self, folder: Folder) -> list[str]:
        """What an installation reads."""
        names = ["package.json", *([self.lock] if self.lock else [])]
        return names + [name for name in _BESIDE if folder.has(name)]


def read(folder: Folder) -> Package | None:
    """None when there is none, or none that can be read."""
    found = folder.json("package.json")
    if not found:
        return None
    lock, packager = next(((name, packager) for name, packager in _LOCKS if folder.has(name)), ("", "npm"))
    manager = str(found.get("packageManager") or "")
    if not lock and manager.startswith(("pnpm@", "yarn@", "bun@")):
        packager = "pnpm" if manager.startswith("pnpm") else "bun" if manager.startswith("bun") else "yarn"
    if packager == "yarn" and (folder.has(".yarnrc.yml") or re.match(r"yarn@[2-9]", manager)):
        packager = "berry"
    scripts = {name: text for name, text in table(found, "scripts").items() if isinstance(text, str)}
    return Package(
        table(found, "dependencies"),
        table(found, "devDependencies"),
        scripts,
        packager,
        lock,
        str(table(found, "engines").get("bun" if packager == "bun" else "node") or ""),
        manager,
        str(found.get("main") or ""),
        bool(found.get("workspaces"))
        or folder.says("pnpm-workspace.yaml", r"^packages:")
        or _runs_source(scripts, found),
    )


def _runs_source(scripts: Mapping[str, str], found: Mapping[str, object]) -> bool:
    steps = [scripts.get(name, "") for name in ("preinstall", "install", "postinstall", "prepare")]
    runs = any(re.search(r"\.[cm]?[jt]s\b|\.sh\b|patch-package|(^|\s)\./", step) for step in steps)
    versions = [*table(found, "dependencies").values(), *table(found, "devDependencies").values()]
    return runs or any(
        str(one).startswith(("file:", "link:", "workspace:")) for one in versions if isinstance(one, str)
    )


def version(folder: Folder, package: Package, local: Interpreters) -> Version:
    if package.packager == "bun":
        return chosen(
            in_file(folder, ".bun-version"),
            of_tools(folder, "bun"),
            _engine(package),
            lambda: _local(local, "bun", _OLDEST_BUN),
            default=BUN,
        )
    return chosen(
        _engine(package),
        in_file(folder, ".nvmrc"),
        in_file(folder, ".node-version"),
        of_tools(folder, "nodejs", "node"),
        lambda: _local(local, "node", (_OLDEST_NODE,)),
        default=NODE,
    ).short(1)


def _engine(package: Package) -> Version | None:
    """Where the requirement begins; one that any supported version meets says nothing."""
    floor = lowest(package.engine)
    oldest = _OLDEST_NODE if package.packager != "bun" else 1
    if not floor or int(floor.split(".")[0]) < oldest:
        return None
    if re.match(r"\s*>=?", package.engine) and "<" not in package.engine and int(floor.split(".")[0]) < int(NODE):
        return None if package.packager == "bun" else Version(NODE, "the default, which engines in package.json allows")
    return Version(floor, "engines in package.json")


def _local(local: Interpreters, program: str, oldest: tuple[int, ...]) -> Version | None:
    said = local.version(program)
    match = re.fullmatch(r"\d+(\.\d+)*", said)
    if match is None or tuple(int(part) for part in said.split(".")) < oldest:
        return None
    return Version(said, f"{program} of this computer")
