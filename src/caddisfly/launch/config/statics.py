"""`[[statics]]`: files that the proxy serves from the Machine's root. Every group has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from caddisfly.launch.config.findings import Findings
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.section import Section

STATICS_MAX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Static:
    guest_path: str
    url_prefix: str
    tigris_bucket: str = ""
    index_document: str = ""

    @property
    def local(self) -> bool:
        """A directory of the laptop, to be uploaded; the Machine does not learn of it."""
        return not self.guest_path.startswith("/")

    def to_wire(self) -> dict[str, Any]:
        return {
            "guest_path": self.guest_path,
            "url_prefix": self.url_prefix,
            "tigris_bucket": self.tigris_bucket,
            "index_document": self.index_document,
        }


def read(nodes: tuple[Node, ...], findings: Findings) -> tuple[Static, ...]:
    statics = tuple(_one(node, findings) for node in nodes)
    if len(statics) > STATICS_MAX:
        findings.complain(nodes[STATICS_MAX], f"too many statics, at most {STATICS_MAX}")
    for number, (node, static) in enumerate(zip(nodes, statics, strict=True)):
        for other in statics[:number]:
            if _inside(static.url_prefix, other.url_prefix) or _inside(other.url_prefix, static.url_prefix):
                findings.complain(node, f"the prefixes {other.url_prefix} and {static.url_prefix} overlap")
    return statics


def _one(node: Node, findings: Findings) -> Static:
    with Section(node, findings) as section:
        static = Static(
            guest_path=section.text("guest_path"),
            url_prefix=section.text("url_prefix"),
            tigris_bucket=section.text("tigris_bucket"),
            index_document=section.text("index_document"),
        )
        for name in ("guest_path", "url_prefix"):
            if not getattr(static, name):
                findings.complain(node, f"missing {name}")
        if static.url_prefix and not static.url_prefix.startswith("/"):
            findings.complain(section.place_of("url_prefix"), f"'{static.url_prefix}' must begin with a slash")
        if static.index_document and not static.tigris_bucket:
            findings.complain(section.place_of("index_document"), "needs a tigris_bucket")
        if static.guest_path and static.local and not static.tigris_bucket:
            findings.warn(
                section.place_of("guest_path"),
                "has no effect: files of the laptop are not uploaded; give an absolute path",
            )
        return static


def _inside(inner: str, outer: str) -> bool:
    return (inner.rstrip("/") + "/").startswith(outer.rstrip("/") + "/")
