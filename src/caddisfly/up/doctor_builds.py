"""Whether this computer can build images: the programs for it, and directories in which its sandboxes get about.

Who is root in a build's sandbox is nobody on the host, so every directory above the platform's own has to let anybody
pass. One that does not, such as a home directory, fails each build with a "permission denied" that names no directory.
"""

from __future__ import annotations

import stat
from pathlib import Path

from caddisfly.up.examination import Bench, Check
from caddisfly.up.settings import Settings

_TOOLS = ("buildah", "runc")


def tools(bench: Bench, settings: Settings) -> list[Check]:
    if not settings.builds.enabled:
        return [_off("builds")]
    versions, missing = [], []
    for name in _TOOLS:
        ran = bench.run([name, "--version"])
        if ran.code == 0:
            versions.append(_version(name, ran.output))
        else:
            missing.append(f"{name}: {ran.last_line}")
    if missing:
        return [
            Check(
                name="builds",
                result="warn",
                found="; ".join(missing),
                next="install buildah and runc, or set [builds] enabled = false; Machines do without them",
            )
        ]
    return [Check(name="builds", result="ok", found=", ".join(versions))]


def directories(_: Bench, settings: Settings) -> list[Check]:
    if not settings.builds.enabled:
        return [_off("directories")]
    checks = []
    for setting, directory in (("data_dir", settings.platform.data_dir), ("run_dir", settings.platform.run_dir)):
        closed = closed_above(directory)
        mode = stat.S_IMODE(closed.stat().st_mode) if closed is not None else 0
        checks.append(
            Check(
                name=setting,
                result="fail" if closed is not None else "ok",
                found=f"{closed} has mode {mode:04o}, so builds get no further" if closed else f"{directory}",
                next=f"chmod o+x {closed}, or set [platform] {setting} to another place" if closed else "",
            )
        )
    return checks


def closed_above(directory: Path) -> Path | None:
    """The topmost directory on the way there, itself included, that only its owner may pass."""
    place = directory.resolve()
    for step in (*reversed(place.parents), place):
        if not step.exists():
            return None  # it will be made open
        if not step.stat().st_mode & stat.S_IXOTH:
            return step
    return None


def _version(name: str, output: str) -> str:
    """Of `buildah version 1.28.2 (image-spec ...)`."""
    words = output.split()
    return " ".join((name, *words[words.index("version") + 1 :][:1])) if "version" in words else name


def _off(name: str) -> Check:
    return Check(name=name, result="ok", found="not needed: [builds] enabled is false")
