"""What a Dockerfile will do: its stages, the images they begin with, the files they take, and what cannot work."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from caddisfly.launch.build.context import Folder
from caddisfly.launch.build.dockerfile import Dockerfile, Instruction, meant
from caddisfly.model.errors import InvalidArgument

_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
_VARIABLE = re.compile(r"(\w+)|\{(\w+)(?:(:?[-+])([^{}]*))?\}")
_ELSEWHERE = re.compile(r"(https?|ftp|git|ssh)://|git@|.*\.git(#|$)", re.IGNORECASE)
_WILD = re.compile(r"[*?\[]")
PLATFORM = {
    "TARGETPLATFORM": "linux/amd64",
    "TARGETOS": "linux",
    "TARGETARCH": "amd64",
    "TARGETVARIANT": "",
    "BUILDPLATFORM": "linux/amd64",
    "BUILDOS": "linux",
    "BUILDARCH": "amd64",
    "BUILDVARIANT": "",
}
"""Variables that every build has."""


@dataclass(slots=True)
class Stage:
    """`base` is an image or the name of an earlier stage, `needs` the earlier stages it takes from."""

    index: int
    name: str
    base: str
    line: int
    instructions: list[Instruction] = field(default_factory=list)
    needs: set[int] = field(default_factory=set)
    images: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plan:
    """`stages` are those that the target needs, in order; `images` what they are made from."""

    dockerfile: Dockerfile
    stages: tuple[Stage, ...]
    target: Stage
    images: tuple[str, ...]
    doubts: tuple[str, ...]

    def check_sources(self, folder: Folder) -> None:
        """Raises `InvalidArgument` for a COPY or ADD of what is not in the folder, or is ignored."""
        there = {entry.path for entry in folder.entries}
        for stage in self.stages:
            for instruction in stage.instructions:
                if instruction.name in ("COPY", "ADD") and not instruction.flag("from"):
                    for source in instruction.words(self.dockerfile.escape)[:-1]:
                        self._check_source(instruction, source, there, folder)

    def _check_source(self, instruction: Instruction, source: str, there: set[str], folder: Folder) -> None:
        """What a variable or a wildcard comes to is left to the builder."""
        elsewhere = instruction.name == "ADD" and _ELSEWHERE.match(source)
        if elsewhere or "$" in source or _WILD.search(source) or source.startswith("<<"):
            return
        path = posixpath.normpath("/" + source).lstrip("/")
        if not path or path in there or self._through_link(path, folder):
            return
        if (folder.root / path).exists() or (folder.root / path).is_symlink():
            origin = folder.rules.origin
            raise self.dockerfile.mistake(
                instruction.line,
                f"{instruction.name} {source}: it is left out of the build context",
                why=f"{origin} ignores it" if origin else "it is left out where there is no .dockerignore",
                next=f"add !{path} to {origin}" if origin else "write a .dockerignore: then only its rules count",
            )
        near = meant(path, there)
        raise self.dockerfile.mistake(
            instruction.line,
            f"{instruction.name} {source}: there is no such file in the build context",
            why=f"the build context is {folder.root}",
            next=f"did you mean {near}?" if near else "sources are relative to the context, not to the Dockerfile",
        )

    @staticmethod
    def _through_link(path: str, folder: Folder) -> bool:
        """Whether the builder finds it behind a link of the folder."""
        links = {entry.path for entry in folder.entries if entry.is_link}
        parts = path.split("/")
        return any("/".join(parts[:length]) in links for length in range(1, len(parts)))


def plan(dockerfile: Dockerfile, *, target: str = "", args: Mapping[str, str] | None = None) -> Plan:
    """Raises `InvalidArgument` with file and line."""
    return _Planner(dockerfile, args or {}).plan(target)


class _Planner:
    def __init__(self, dockerfile: Dockerfile, args: Mapping[str, str]) -> None:
        self._file = dockerfile
        self._args = args
        self._stages: list[Stage] = []
        self._values: dict[str, str] = dict(PLATFORM)
        self._declared: set[str] = set(PLATFORM)
        self._doubts = list(dockerfile.doubts)
        self._later = {
            name.lower()
            for instruction in dockerfile.instructions
            if instruction.name == "FROM" and (name := _stage_name(instruction.words(dockerfile.escape)))
        }

    def plan(self, target: str) -> Plan:
        for instruction in self._file.instructions:
            if instruction.name == "FROM":
                self._begin(instruction)
            elif not self._stages:
                self._before(instruction)
            else:
                self._inside(self._stages[-1], instruction)
        if not self._stages:
            last = self._file.instructions[-1]
            raise self._file.mistake(last.line, "there is no FROM", next="begin with: FROM image")
        for unknown in sorted(set(self._args) - self._declared - _PREDEFINED):
            self._doubts.append(f"--build-arg {unknown}: {self._file.name} has no ARG {unknown}")
        chosen = self._target(target)
        needed = self._needed(chosen)
        images = dict.fromkeys(image for stage in needed for image in stage.images)
        return Plan(self._file, tuple(needed), chosen, tuple(images), tuple(self._doubts))

    def _before(self, instruction: Instruction) -> None:
        if instruction.name != "ARG":
            raise self._file.mistake(
                instruction.line,
                f"{instruction.name} stands before the first FROM",
                why="only ARG may",
                next="begin with: FROM image",
            )
        for name, default in _assigned(instruction, self._file.escape).items():
            self._declared.add(name)
            if name in self._args:
                self._values[name] = self._args[name]
            elif default is not None:
                self._values[name] = self._expand(default)

    def _begin(self, instruction: Instruction) -> None:
        words = instruction.words(self._file.escape)
        name = _stage_name(words)
        if len(words) not in (1, 3) or (len(words) == 3 and not name):
            raise self._file.mistake(
                instruction.line, f"FROM {instruction.rest} cannot be read", next="FROM image, or FROM image AS name"
            )
        if name and (not _NAME.fullmatch(name.lower()) or name.lower() == "scratch"):
            raise self._file.mistake(
                instruction.line,
                f"a stage cannot be called {name}",
                next="a letter, then letters, digits, and any of -_.",
            )
        base = self._expand(words[0])
        if not base:
            raise self._file.mistake(
                instruction.line,
                f"FROM {words[0]} names no image",
                why="the ARG has no value here",
                next="give it a default in an ARG before the FROM, or --build-arg",
            )
        stage = Stage(len(self._stages), name.lower(), base, instruction.line)
        self._take(stage, base, instruction, f"FROM {base}", numbers=False)
        self._stages.append(stage)

    def _inside(self, stage: Stage, instruction: Instruction) -> None:
        stage.instructions.append(instruction)
        if instruction.name == "ARG":
            self._declared |= set(_assigned(instruction, self._file.escape))
        if instruction.name in ("COPY", "ADD"):
            words = instruction.words(self._file.escape)
            if len(words) < 2:
                raise self._file.mistake(
                    instruction.line,
                    f"{instruction.name} {instruction.rest} has no destination",
                    next=f"{instruction.name} source... destination",
                )
        if instruction.name == "ENV":
            words = instruction.words(self._file.escape)
            if len(words) == 1 and "=" not in words[0]:
                raise self._file.mistake(instruction.line, f"ENV {words[0]} has no value", next=f"ENV {words[0]}=value")
        if instruction.name == "COPY" and (source := instruction.flag("from")):
            self._take(stage, source, instruction, f"--from={source}", numbers=True)
        if instruction.name == "RUN":
            for key, value in instruction.flags:
                options = dict(part.partition("=")[::2] for part in value.split(",")) if key == "mount" else {}
                if source := options.get("from", ""):
                    self._take(stage, source, instruction, f"from={source}", numbers=True)

    def _take(self, stage: Stage, source: str, instruction: Instruction, text: str, *, numbers: bool) -> None:
        """Note that a stage takes from another one, or from an image."""
        if "$" in source or source == "scratch":
            return
        if numbers and source.isdecimal():
            if int(source) >= stage.index:
                raise self._file.mistake(
                    instruction.line, f"{text}: there is no earlier stage {source}", next="stages count from 0"
                )
            stage.needs.add(int(source))
            return
        earlier = {one.name: one.index for one in self._stages if one.name and one is not stage}
        name = source.lower()
        if name in earlier:
            stage.needs.add(earlier[name])
            return
        if name == stage.name and numbers:
            raise self._file.mistake(instruction.line, f"{text}: a stage cannot take from itself")
        if name in self._later and name != stage.name:
            raise self._file.mistake(
                instruction.line, f"{text}: that stage comes later", next="put it before the one that takes from it"
            )
        near = meant(name, earlier) if numbers and not re.search(r"[/:@.]", source) else ""
        if near:
            raise self._file.mistake(
                instruction.line,
                f"{text}: there is no stage {source}",
                next=f"did you mean {near}? An image of this name would be {source}:latest",
            )
        stage.images.append(source)

    def _target(self, target: str) -> Stage:
        if not target:
            return self._stages[-1]
        for stage in self._stages:
            if target.lower() == stage.name or target == str(stage.index):
                return stage
        names = [stage.name for stage in self._stages if stage.name]
        near = meant(target, names)
        raise InvalidArgument(
            f"{self._file.name} has no stage {target}",
            why=f"its stages are {', '.join(names)}" if names else "none of its stages has a name",
            next=f"did you mean {near}?" if near else "correct --build-target",
        )

    def _needed(self, target: Stage) -> list[Stage]:
        found: set[int] = set()
        waiting = [target.index]
        while waiting:
            index = waiting.pop()
            if index not in found:
                found.add(index)
                waiting.extend(self._stages[index].needs)
        return [self._stages[index] for index in sorted(found)]

    def _expand(self, text: str) -> str:
        return expand(text, lambda name: self._values.get(name, ""), self._file.escape)


_PREDEFINED = frozenset(
    name
    for word in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (word, word.lower())
) | {"SOURCE_DATE_EPOCH"}


def expand(text: str, value_of: Callable[[str], str], escape: str) -> str:
    """Variables replaced; what is no variable we know of stays as it is."""
    out, at = "", 0
    while at < len(text):
        if text[at] == escape and text.startswith("$", at + 1):
            out += "$"
            at += 2
            continue
        match = _VARIABLE.match(text, at + 1) if text[at] == "$" else None
        if match is None:
            out += text[at]
            at += 1
            continue
        at = match.end()
        value = value_of(match[1] or match[2])
        operator, word = match[3] or "", match[4] or ""
        if operator.endswith("-"):
            value = value or expand(word, value_of, escape)
        elif operator.endswith("+"):
            value = expand(word, value_of, escape) if value else ""
        out += value
    return out


def _stage_name(words: list[str]) -> str:
    return words[2] if len(words) == 3 and words[1].upper() == "AS" else ""


def _assigned(instruction: Instruction, escape: str) -> dict[str, str | None]:
    """`A=1 B` as `{"A": "1", "B": None}`."""
    found: dict[str, str | None] = {}
    for word in instruction.words(escape):
        name, equals, value = word.partition("=")
        found[name] = value if equals else None
    return found
