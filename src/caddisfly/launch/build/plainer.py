"""A Dockerfile in the words of older builders, since hosts have the buildah of their distribution.

Debian 12's does not know heredocs, nor `--link`. A heredoc of a RUN is nothing but text for the shell, so it becomes
the exec form of the same; `--link` only says how to store a layer, and is left out. Lines stay where they are, so
messages of the builder still name the right ones. What has no other words is sent as it is, with a warning.
"""

from __future__ import annotations

import json
import re

from caddisfly.launch.build.dockerfile import Dockerfile, Heredoc, Instruction

_SHELL = ("/bin/sh", "-c")
_HINTS = frozenset((("COPY", "link"), ("ADD", "link")))
"""Flags that change nothing about the image."""
_ONLY_HEREDOC = re.compile(r"\d*<<-?\S+")
_NEW = {"COPY": ("parents", "exclude"), "ADD": ("checksum", "exclude", "keep-git-dir", "unpack")}


def rewrite(dockerfile: Dockerfile) -> tuple[bytes, tuple[str, ...]]:
    """The text to send, and warnings about what may be too new."""
    lines = dockerfile.content.decode().split("\n")
    warnings = []
    for instruction, shell in _with_shells(dockerfile):
        if plain := _plain(instruction, shell):
            height = instruction.end - instruction.line + 1
            lines[instruction.line - 1 : instruction.end] = [plain, *[""] * (height - 1)]
        elif too_new := _too_new(instruction):
            what = f"{dockerfile.name}:{instruction.line}: {too_new}"
            warnings.append(f"{what} needs buildah 1.33 or newer on the host")
    return "\n".join(lines).encode(), tuple(warnings)


def _with_shells(dockerfile: Dockerfile) -> list[tuple[Instruction, tuple[str, ...]]]:
    """Each instruction with the shell that it runs in; a stage has that of the stage it begins with."""
    found = []
    shell: tuple[str, ...] = _SHELL
    named: dict[str, tuple[str, ...]] = {}
    name = ""
    for instruction in dockerfile.instructions:
        words = instruction.words(dockerfile.escape)
        if instruction.name == "FROM":
            named[name] = shell
            shell = named.get(words[0].lower(), _SHELL)
            name = words[2].lower() if len(words) == 3 else ""
        elif instruction.name == "SHELL" and words:
            shell = tuple(words)
        found.append((instruction, shell))
    return found


def _plain(instruction: Instruction, shell: tuple[str, ...]) -> str:
    """Other words for it; empty when it needs none, or there are none."""
    flags = [(key, value) for key, value in instruction.flags if (instruction.name, key) not in _HINTS]
    if any(" " in value for _, value in flags):
        return ""
    written = [instruction.name, *(f"--{key}={value}" if value else f"--{key}" for key, value in flags)]
    if instruction.name == "RUN" and instruction.heredocs:
        text = _script(instruction)
        return " ".join([*written, json.dumps([*shell, text])]) if text else ""
    if len(flags) < len(instruction.flags) and not instruction.heredocs:
        return " ".join([*written, instruction.rest])
    return ""


def _script(instruction: Instruction) -> str:
    """What the shell gets. A script that names its own interpreter would need a file: it has no other words."""
    first = instruction.heredocs[0]
    if len(instruction.heredocs) == 1 and _ONLY_HEREDOC.fullmatch(instruction.rest):
        return "" if first.body.startswith("#!") else _tabless(first)
    return "\n".join([instruction.rest, *(f"{one.body}{one.name}" for one in instruction.heredocs)])


def _tabless(heredoc: Heredoc) -> str:
    if not heredoc.tabless:
        return heredoc.body
    return "".join(line.lstrip("\t") for line in heredoc.body.splitlines(keepends=True))


def _too_new(instruction: Instruction) -> str:
    if instruction.heredocs:
        return f"{instruction.name} with a heredoc"
    flag = next((key for key in _NEW.get(instruction.name, ()) if any(key == one for one, _ in instruction.flags)), "")
    return f"{instruction.name} --{flag}" if flag else ""
