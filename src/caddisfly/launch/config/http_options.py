"""What the proxy does with HTTP and TLS on a port: `http_options`, `tls_options`, `proxy_proto_options`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from caddisfly.launch.config import words
from caddisfly.launch.config.findings import Findings
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.section import Section
from caddisfly.launch.config.units import kind

TLS_VERSIONS = ("TLSv1.2", "TLSv1.3")
PROXY_PROTOCOLS = ("v1", "v2")
_REPLAY_TTL_MIN_S = 10
_REPLAY_TYPES = ("cookie", "header")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """Times are seconds. `headers`: a text sets one, a list gives several values, false removes it."""

    compress: bool | None = None
    h2_backend: bool | None = None
    idle_timeout_s: int | None = None
    headers_read_timeout_s: int | None = None
    pristine: bool | None = None
    headers: Mapping[str, str | list[str] | bool] | None = None
    replay_cache: tuple[Mapping[str, Any], ...] = ()

    def to_wire(self) -> dict[str, Any]:
        wire = {
            "compress": self.compress,
            "h2_backend": self.h2_backend,
            "idle_timeout": self.idle_timeout_s,
            "headers_read_timeout": self.headers_read_timeout_s,
            "response": _given({"headers": dict(self.headers) if self.headers else None, "pristine": self.pristine}),
            "replay_cache": [dict(entry) for entry in self.replay_cache],
        }
        return {name: value for name, value in wire.items() if value not in (None, {}, [])}


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    alpn: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    default_self_signed: bool | None = None

    def to_wire(self) -> dict[str, Any]:
        lists = {"alpn": list(self.alpn), "versions": list(self.versions)}
        return {name: value for name, value in lists.items() if value} | _given(
            {"default_self_signed": self.default_self_signed}
        )


def read(node: Node | None, findings: Findings) -> HttpOptions | None:
    if node is None:
        return None
    with Section(node, findings) as section:
        headers, pristine = _response(section.node_of("response"), findings)
        return HttpOptions(
            compress=section.flag("compress"),
            h2_backend=section.flag("h2_backend"),
            idle_timeout_s=section.whole("idle_timeout"),
            headers_read_timeout_s=section.whole("headers_read_timeout"),
            pristine=pristine,
            headers=headers,
            replay_cache=tuple(_replay(entry, findings) for entry in section.tables("replay_cache")),
        )


def read_tls(node: Node | None, findings: Findings) -> TlsOptions | None:
    if node is None:
        return None
    with Section(node, findings) as section:
        return TlsOptions(
            alpn=section.texts("alpn"),
            versions=section.choices("versions", TLS_VERSIONS),
            default_self_signed=section.flag("default_self_signed"),
        )


def read_proxy_protocol(node: Node | None, findings: Findings) -> str:
    if node is None:
        return ""
    with Section(node, findings) as section:
        return section.choice("version", PROXY_PROTOCOLS, complain=True)


def _response(node: Node | None, findings: Findings) -> tuple[dict[str, Any] | None, bool | None]:
    if node is None:
        return None, None
    with Section(node, findings) as section:
        headers = section.node_of("headers")
        return _headers(headers, findings), section.flag("pristine")


def _headers(node: Node | None, findings: Findings) -> dict[str, str | list[str] | bool] | None:
    if node is None:
        return None
    if not node.is_table:
        findings.error(node, f"must be a table, got {kind(node.value)}")
        return None
    headers: dict[str, str | list[str] | bool] = {}
    for name, member in node.members.items():
        if member.is_list and all(isinstance(item.value, str) for item in member.value):
            headers[name] = [item.value for item in member.value]
        elif member.value is False:
            headers[name] = False
        elif member.is_table or member.is_list or member.value is True:
            findings.error(
                member,
                f"must say what the header is, got {kind(member.value)}",
                allowed="a text, a list of texts, false",
            )
        else:
            headers[name] = words.scalar(member.value)
    return headers


def _replay(node: Node, findings: Findings) -> dict[str, Any]:
    with Section(node, findings) as section:
        return _given(
            {
                "path_prefix": section.text("path_prefix") or None,
                "ttl_seconds": section.whole("ttl_seconds", _REPLAY_TTL_MIN_S),
                "type": section.choice("type", _REPLAY_TYPES, complain=True) or None,
                "name": section.text("name") or None,
                "allow_bypass": section.flag("allow_bypass"),
            }
        )


def _given(wire: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wire.items() if value is not None}
