"""`[experimental]`: overrides of the image's command, and what is left of older days."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from caddisfly.launch.config.findings import Findings
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.section import Section
from caddisfly.launch.config.units import Bare
from caddisfly.model.duration import Duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Experimental:
    """A text in place of a list is a list of one: it is not split into words."""

    cmd: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    exec: tuple[str, ...] = ()
    kill_timeout: Duration | None = None
    metrics_port: int | None = None
    metrics_path: str = ""
    machine_config: str = ""
    exported_secrets: Mapping[str, str] = field(default_factory=dict)
    """Of `attached.secrets.export`: name and template."""


def read(node: Node | None, findings: Findings) -> Experimental:
    if node is None:
        return Experimental()
    with Section(node, findings) as section:
        for name in ("auto_rollback", "enable_consul", "enable_etcd"):
            section.flag(name)
        section.ignored("use_zstd", why="build.compression says it")
        section.ignored("lazy_load_images", why="it is no longer supported")
        section.ignored("allowed_public_ports", "private_network", why="it belongs to Fly's first platform")
        return Experimental(
            cmd=section.text_or_list("cmd"),
            entrypoint=section.text_or_list("entrypoint"),
            exec=section.text_or_list("exec"),
            kill_timeout=section.duration("kill_timeout", Bare.SECONDS),
            metrics_port=section.port("metrics_port"),
            metrics_path=section.text("metrics_path"),
            machine_config=section.text("machine_config"),
            exported_secrets=_exports(section.node_of("attached"), findings),
        )


def _exports(node: Node | None, findings: Findings) -> dict[str, str]:
    if node is None:
        return {}
    with Section(node, findings) as attached:
        secrets = attached.node_of("secrets")
    if secrets is None:
        return {}
    with Section(secrets, findings) as section:
        return section.scalars("export")
