"""`[[files]]`: files written into a Machine before it starts.

Without `processes` a file is for every group, because that is what Fly does with it; with `processes`, which Fly
ignores, it is for those. `raw_value` is base64, as Fly's documents say; `literal`, which Fly does not have, is text
as it is.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caddisfly.launch.config import locate
from caddisfly.launch.config.findings import Findings
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.processes import Groups
from caddisfly.launch.config.section import Section

_WAYS = ("local_path", "secret_name", "raw_value", "literal")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """`raw_value` is base64. Either it or `secret_name` is given."""

    guest_path: str
    raw_value: str = ""
    secret_name: str = ""
    processes: tuple[str, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        wire: dict[str, Any] = {"guest_path": self.guest_path}
        return wire | ({"secret_name": self.secret_name} if self.secret_name else {"raw_value": self.raw_value})


def of_group(entries: Iterable[FileEntry], group: str) -> tuple[FileEntry, ...]:
    return tuple(entry for entry in entries if not entry.processes or group in entry.processes)


def read(node: Node, findings: Findings, groups: Groups, *, directory: Path | None) -> FileEntry:
    """Local files are read now, relative to the directory of the config file, if it is one."""
    with Section(node, findings) as section:
        guest_path = section.text("guest_path")
        if not guest_path.startswith("/"):
            findings.error(section.place_of("guest_path"), f"guest path, {guest_path}, must be absolute")
        said = {way: section.text(way) for way in _WAYS}
        given = [way for way in _WAYS if way in node.members]
        if len(given) != 1:
            findings.error(node, f"give exactly one of {', '.join(_WAYS)}, got {', '.join(given) or 'none'}")
        return FileEntry(
            guest_path=guest_path,
            raw_value=_content(section, said, given[0] if given else "", directory),
            secret_name=said["secret_name"],
            processes=groups.read(section),
        )


def _content(section: Section, said: dict[str, str], way: str, directory: Path | None) -> str:
    """In base64."""
    if way == "local_path":
        try:
            return _encoded(locate.beside(directory, said[way]).read_bytes())
        except OSError as error:
            section.findings.error(section.place_of(way), f"{said[way]} cannot be read: {error.strerror or error}")
    elif way == "literal":
        return _encoded(said[way].encode())
    elif way == "raw_value":
        try:
            base64.b64decode(said[way], validate=True)
        except (binascii.Error, ValueError):
            section.findings.complain(
                section.place_of(way), "is not base64; plain text goes into literal, which Fly does not have"
            )
            return _encoded(said[way].encode())
        return said[way]
    return ""


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
