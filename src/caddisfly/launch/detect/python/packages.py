"""What a Python project depends on, and the tool that installs it.

Projects keep several of these files for different readers: a pyproject.toml that only configures ruff beside the
requirements.txt that counts. So a file without dependencies is passed over, and never ends the search.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from caddisfly.launch.detect.folder import Folder, table, words
from caddisfly.launch.detect.versions import Interpreters, Version, allows, chosen, in_file, lowest, of_tools

Tool = Literal["uv", "poetry", "pyproject", "pipenv", "pip", "none"]
DEFAULT = "3.12"
_OLDEST = (3, 9)
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?")
_INCLUDE = re.compile(r"(?:-r|--requirement|-c|--constraint)[\s=]+(\S+)")
_LOCAL = re.compile(r"(?:(?:-e|--editable)[\s=]+)?\.{1,2}(?:/|\[|\s|$)|(?:-e|--editable)[\s=]+file:|file:")
_REQUIREMENTS = ("requirements.txt", "requirements.in", "requirements/production.txt", "requirements/prod.txt")
_MOST_INCLUDED = 20


@dataclass(frozen=True, slots=True)
class Packages:
    """`found` has, for each package, the file and the extras that it is named with. Names are as PEP 503 has them."""

    tool: Tool
    manifest: str
    lock: str
    found: Mapping[str, tuple[str, str]]
    installable: bool
    """Whether the project is itself a package that must be installed to be imported."""
    included: tuple[str, ...] = ()
    """Requirements files that `manifest` refers to."""
    local: bool = False
    """Whether requirements name packages of the folder itself, which must be there to be installed."""

    @property
    def installed(self) -> bool:
        """Whether the image has the project among its packages."""
        return self.installable and self.tool in ("uv", "pyproject")

    def has(self, *names: str) -> bool:
        return any(name in self.found for name in names)

    def where(self, name: str) -> str:
        """`django in requirements.txt`."""
        return f"{name} in {self.found[name][0]}" if name in self.found else name

    def extras(self, name: str) -> str:
        return self.found[name][1] if name in self.found else ""


def read(folder: Folder) -> Packages:
    pyproject = folder.toml("pyproject.toml")
    project = words(table(pyproject, "project").get("dependencies"))
    optional = table(pyproject, "project", "optional-dependencies")
    poetry = table(pyproject, "tool", "poetry", "dependencies")
    pipfile = folder.toml("Pipfile")
    locked = table(folder.json("Pipfile.lock"), "default")
    requirements = folder.first(*_REQUIREMENTS)
    texts, included, local = _requirements(folder, requirements)
    found: dict[str, tuple[str, str]] = {}
    for file, names in (
        ("pyproject.toml", project),
        ("pyproject.toml", [*poetry, *(one for group in optional.values() for one in words(group))]),
        ("Pipfile", [f"{name}{_extras(value)}" for name, value in table(pipfile, "packages").items()]),
        ("Pipfile.lock", list(locked)),
        (requirements, texts),
    ):
        for text in names:
            match = _NAME.match(text)
            if match and match[1].lower() != "python":
                found.setdefault(normal(match[1]), (file, match[2] or ""))
    for name, value in poetry.items():
        if normal(name) in found and found[normal(name)][0] == "pyproject.toml" and _extras(value):
            found[normal(name)] = ("pyproject.toml", _extras(value))
    tool, manifest, lock = _tool(folder, bool(project), bool(poetry), requirements)
    installable = "build-system" in pyproject and "project" in pyproject
    return Packages(tool, manifest, lock, found, installable, included, local)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def version(folder: Folder, local: Interpreters) -> tuple[Version, str]:
    """The version, and what somebody should know about it."""
    found = chosen(
        _of(folder.json("Pipfile.lock").get("_meta"), "python_version", "Pipfile.lock"),
        _of({"requires": folder.toml("Pipfile").get("requires")}, "python_version", "Pipfile"),
        in_file(folder, ".python-version"),
        in_file(folder, "runtime.txt", r"^[ \t]*python-(\d+(?:\.\d+)*)"),
        of_tools(folder, "python"),
        _required(folder),
        lambda: _of_this_computer(local),
        default=DEFAULT,
    )
    short = found.short(2)
    if re.search(r"rc", short.value):
        return short, f"TODO: Python {short.value} is not finished; pin the version that the app is meant for"
    return short, ""


def _of(value: object, key: str, file: str) -> Version | None:
    said = table(value, "requires").get(key)
    return Version(str(said), f"{key} in {file}") if said else None


def _required(folder: Folder) -> Version | None:
    """Where a requirement begins, unless nobody supports that any more and ours is allowed, too."""
    pyproject = folder.toml("pyproject.toml")
    for said, origin in (
        (table(pyproject, "project").get("requires-python"), "requires-python in pyproject.toml"),
        (table(pyproject, "tool", "poetry", "dependencies").get("python"), "python in pyproject.toml"),
    ):
        if isinstance(said, str) and said.strip() not in ("", "*"):
            floor = lowest(said)
            numbers = tuple(int(part) for part in floor.split(".")) if floor else ()
            if len(numbers) > 1 and (numbers >= _OLDEST or not allows(said, DEFAULT)):
                return Version(floor, origin)
            return Version(DEFAULT, f"the default, which {origin} allows")
    return None


def _of_this_computer(local: Interpreters) -> Version | None:
    said = local.version("python3")
    match = re.fullmatch(r"(\d+)\.(\d+)(?:\.\d+)?(.*)", said)
    if match is None or (int(match[1]), int(match[2])) < _OLDEST:
        return None
    unfinished = re.match(r"a|b|rc", match[3])
    return Version(f"{match[1]}.{match[2]}{'-rc' if unfinished else ''}", "python3 of this computer")


def _tool(folder: Folder, project: bool, poetry: bool, requirements: str) -> tuple[Tool, str, str]:
    if folder.has("uv.lock") and folder.has("pyproject.toml"):
        return "uv", "pyproject.toml", "uv.lock"
    if poetry or (folder.has("poetry.lock") and folder.has("pyproject.toml")):
        return "poetry", "pyproject.toml", folder.first("poetry.lock")
    if project:
        return "pyproject", "pyproject.toml", ""
    if folder.has("Pipfile"):
        return "pipenv", "Pipfile", folder.first("Pipfile.lock")
    if requirements:
        return "pip", requirements, ""
    return "none", "", ""


def _requirements(folder: Folder, first: str) -> tuple[list[str], tuple[str, ...], bool]:
    """The lines that name packages, the files they come from beside the first, and whether some are of the folder."""
    lines: list[str] = []
    local = False
    waiting, seen = [first] if first else [], [first]
    while waiting and len(seen) <= _MOST_INCLUDED:
        file = waiting.pop()
        for line in _lines(folder, file):
            include = _INCLUDE.match(line)
            if include is None:
                local = local or _LOCAL.match(line) is not None
                if not line.startswith(("-", ".")):
                    lines.append(line)
                continue
            path = "/".join([*file.split("/")[:-1], include[1]])
            if folder.has(path) and path not in seen:
                seen.append(path)
                waiting.append(path)
    return lines, tuple(seen[1:]), local


def _lines(folder: Folder, file: str) -> Iterator[str]:
    for line in folder.text(file).splitlines():
        bare = re.sub(r"(^|\s)#.*", "", line).strip()
        if bare:
            yield bare


def _extras(value: object) -> str:
    extras = words(value.get("extras")) if isinstance(value, dict) else []
    return f"[{','.join(extras)}]" if extras else ""
