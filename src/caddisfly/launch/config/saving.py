"""Writing what an app's Machines run into a fly.toml that may be there already."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tomlkit

from caddisfly.launch.config import document, edit, from_machines, loading
from caddisfly.launch.config.app_config import AppConfig
from caddisfly.launch.config.findings import ConfigInvalid
from caddisfly.launch.config.from_machines import OWNED, Saved
from caddisfly.launch.config.running import Machine
from caddisfly.launch.config.translate import machine_config
from caddisfly.model.errors import FailedPrecondition, InvalidArgument


@dataclass(frozen=True, slots=True)
class Present:
    """The file as it is, empty when there is none."""

    path: Path
    text: str = ""
    app: str = ""

    @classmethod
    def read(cls, path: Path) -> Present:
        """Raises `InvalidArgument` for a format that cannot be edited, `ConfigInvalid` for a text that is malformed."""
        if path.suffix != ".toml":
            raise InvalidArgument(f"{path} is not TOML", why="only TOML is written", next="-c fly.toml")
        if not path.exists():
            return cls(path)
        root = document.read(path)
        app = root.members.get("app")
        return cls(path, path.read_text(encoding="utf-8"), str(app.value) if app is not None else "")

    def write(self, text: str) -> None:
        """All of it or nothing."""
        handle, name = tempfile.mkstemp(dir=self.path.resolve().parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(name, self.path.stat().st_mode & 0o777 if self.path.exists() else 0o644)
            os.replace(name, self.path.resolve())
        except BaseException:
            os.unlink(name)
            raise


@dataclass(frozen=True, slots=True)
class Written:
    text: str
    notes: tuple[str, ...]


_FAMILIES = (("vm", "compute", "computes"), ("mounts", "mount"), ("metrics", "metric"))
_SECTIONS = (*_FAMILIES, *((name,) for name in OWNED if not any(name in family for family in _FAMILIES)))


def saved(before: Present, app: str, machines: Sequence[Machine]) -> Written:
    """The new text. A section that means already what the Machines run stays as it is, however it spells that."""
    found = from_machines.of(app, machines)
    values = _values(before, found)
    text = edit.replaced(before.text, values, owned=OWNED)
    if not before.text:
        return Written(text, found.notes)
    wanted = _meaning(before, text, found)
    if wanted is None:
        raise FailedPrecondition(
            f"{before.path} cannot be changed to what {app} runs",
            why="what the file has besides is not valid",
            next=f"caddis config validate -c {before.path}",
        )
    kept: frozenset[str] = frozenset()
    for spellings in (OWNED, *_SECTIONS):  # first: is all of it as it should be?
        attempt = kept.union(spellings)
        candidate = _without(before, values, attempt)
        if _meaning(before, candidate, found) == wanted:
            kept, text = attempt, candidate
    return Written(text, found.notes)


def _without(before: Present, values: Mapping[str, object], kept: Collection[str]) -> str:
    """The new text, but for some sections."""
    left = {name: value for name, value in values.items() if name not in kept}
    return edit.replaced(before.text, left, owned=[name for name in OWNED if name not in kept])


def _values(before: Present, found: Saved) -> dict[str, object]:
    """`build` and `experimental` are the user's where there is a file, but for what the Machines say otherwise."""
    values = dict(found.values)
    if before.text:
        values.pop("build", None)
    if "experimental" in values:
        present = tomlkit.parse(before.text).unwrap()
        values["experimental"] = {**present.get("experimental", {}), **values["experimental"]}
    return values


def _meaning(before: Present, text: str, found: Saved) -> dict[str, object] | None:
    """What would come of the Machines by a deploy of this text; None when it means nothing."""
    app = _read(before, text, strict=True) or _read(before, text, strict=False)
    if app is None:
        return None
    groups = {f"[{name}]": machine_config(app, name, existing=found.configs.get(name)) for name in app.groups.names}
    return {"app": app.app, **groups}


def _read(before: Present, text: str, *, strict: bool) -> AppConfig | None:
    try:
        return loading.text(text, name=str(before.path), directory=before.path.resolve().parent, strict=strict)
    except ConfigInvalid:
        return None
