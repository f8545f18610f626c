"""The `.dockerignore` of an app: what no build needs, what its runtime adds, and what its `.gitignore` leaves out.

The two files look alike and are not: a pattern of `.gitignore` without a slash holds in every directory, one of
`.dockerignore` at the top only. So each line is translated. A line that would take away what the Dockerfile copies by
name (people ignore lock files) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from caddisfly.launch.build import ignore
from caddisfly.launch.build.dockerfile import read
from caddisfly.launch.detect.folder import Folder
from caddisfly.model.errors import InvalidArgument

NAME = ".dockerignore"
ALWAYS = (
    "**/.git",
    "**/.DS_Store",
    "**/.env",
    "**/.env.*",
    "!**/.env.example",
    "**/.idea",
    "**/.vscode",
    "Dockerfile*",
    ".dockerignore",
    "compose*.y*ml",
    "docker-compose*.y*ml",
    "fly*.toml",
)
_SECRET = re.compile(r"\.env|\.key|\.pem|secret|credential", re.IGNORECASE)


def content(folder: Folder, dockerfile: str, lines: Sequence[str]) -> str:
    """For a folder that has none."""
    named = sources(dockerfile)
    head = [*ALWAYS, *(line for line in lines if line not in ALWAYS)]
    from_git = [line for line in _from_git(folder) if line not in head]
    kept = [line for line in from_git if not _takes(line, named)]
    parts = ["# What no build needs, and what must not be in an image.", *head]
    if kept:
        parts += ["", "# From .gitignore.", *kept]
    return "\n".join(parts) + "\n"


def _from_git(folder: Folder) -> Iterator[str]:
    """Of the folder's own `.gitignore`, and of those in the directories below."""
    for path in folder.sources(".gitignore"):
        if path.rpartition("/")[2] == ".gitignore":
            yield from translated(folder.text(path), below=path.removesuffix(".gitignore"))


def translated(gitignore: str, *, below: str = "") -> list[str]:
    """Its lines as `.dockerignore` spells them, for the directory that it is in. One that means nothing is left out."""
    found: list[str] = []
    for raw in gitignore.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        keeps = line.startswith("!")
        body = line.removeprefix("!").removeprefix("\\").rstrip("/")
        anchored = "/" in body
        body = body.lstrip("/")
        pattern = below + (body if anchored or body.startswith("**/") else f"**/{body}")
        text = f"!{pattern}" if keeps else pattern
        if not body or (keeps and _SECRET.search(body)):
            continue
        try:
            ignore.rules([text])
        except InvalidArgument:
            continue
        found.append(text)
    return list(dict.fromkeys(found))


def hidden(folder: Folder, dockerfile: str) -> list[str]:
    """What the Dockerfile copies by name and the folder's own `.dockerignore` leaves out."""
    text = folder.content(NAME)
    if text is None:
        return []
    try:
        rules = ignore.parse(text.encode(errors="surrogateescape"), origin=NAME)
    except InvalidArgument:
        return []  # the build says so, with the line
    return [source for source in sources(dockerfile) if rules.ignores(source)]


def sources(dockerfile: str) -> list[str]:
    """Paths of the folder that a COPY names, without wildcards and without the folder itself."""
    parsed = read(dockerfile.encode(errors="surrogateescape"))
    found: list[str] = []
    for instruction in parsed.instructions:
        if instruction.name == "COPY" and not instruction.flag("from"):
            found += (word.removeprefix("./").rstrip("/") for word in instruction.words(parsed.escape)[:-1])
    return [path for path in dict.fromkeys(found) if path not in ("", ".") and not re.search(r"[*?\[$]", path)]


def _takes(line: str, paths: Iterable[str]) -> bool:
    rules = ignore.rules([line])
    return any(rules.ignores(path) for path in paths)
