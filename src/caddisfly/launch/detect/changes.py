"""Files that launch would write. Nothing is written before somebody has seen the difference and said so."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from caddisfly.model.errors import Aborted, FailedPrecondition

_NEW_FILE = "/dev/null"


@dataclass(frozen=True, slots=True)
class Change:
    """`before` is None for a file that is not there yet."""

    path: str
    before: str | None
    after: str
    executable: bool = False

    @property
    def new(self) -> bool:
        return self.before is None

    def diff(self) -> str:
        """Unified, as `diff -u` and `git apply` know it. Empty when there is no difference."""
        old = self.before or ""
        lines = difflib.unified_diff(
            old.splitlines(keepends=True),
            self.after.splitlines(keepends=True),
            _NEW_FILE if self.new else f"a/{self.path}",
            f"b/{self.path}",
        )
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)

    def to_record(self) -> dict[str, object]:
        return {
            "path": self.path,
            "new": self.new,
            "executable": self.executable,
            "content": self.after,
            "diff": self.diff(),
        }


def apply(root: Path, changes: Iterable[Change]) -> None:
    """Write them. Raises `Aborted`, with nothing written, when a file is not what the difference was shown for."""
    wanted = list(changes)
    for change in wanted:
        _check(root, change)
    for change in wanted:
        target = root / change.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(target, change)
        except OSError as error:
            raise FailedPrecondition(f"{change.path} cannot be written", why=error.strerror or str(error)) from error


def _check(root: Path, change: Change) -> None:
    target = root / change.path
    place = target.resolve()
    if target.is_symlink() or not place.is_relative_to(root.resolve()):
        raise FailedPrecondition(
            f"{change.path} is a link, or below one",
            why="what it leads to may belong to something else",
            next="put a file in its place, or write it yourself",
        )
    try:
        now = target.read_bytes().decode(errors="surrogateescape").removeprefix("\ufeff")
    except FileNotFoundError:
        now = None
    except OSError as error:
        raise FailedPrecondition(f"{change.path} cannot be read", why=error.strerror or str(error)) from error
    if now != change.before:
        raise Aborted(
            f"{change.path} changed since the difference was shown", why="nothing was written", next="run it again"
        )


def _write(target: Path, change: Change) -> None:
    """Whole or not at all: a reader never sees half of a file."""
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
    handle, draft = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with open(handle, "wb") as file:
            file.write(change.after.encode(errors="surrogateescape"))
            os.fchmod(file.fileno(), mode | 0o111 if change.executable else mode)
        os.replace(draft, target)
    except OSError:
        Path(draft).unlink(missing_ok=True)
        raise
