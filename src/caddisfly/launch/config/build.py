"""`[build]`: where the image comes from. One image serves every group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from caddisfly.launch.config.findings import Findings
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.section import Section
from caddisfly.launch.config.units import kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """`dockerfile` and `ignorefile` are relative to the directory of the config file."""

    image: str = ""
    dockerfile: str = ""
    target: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    ignorefile: str = ""
    builder: str = ""
    buildpacks: tuple[str, ...] = ()
    builtin: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    compression: str = ""
    compression_level: int | None = None
    compose: bool = False
    """Whether `[build.compose]` is there, be it empty."""
    compose_file: str = ""


def read(node: Node | None, findings: Findings) -> Build:
    if node is None:
        return Build()
    with Section(node, findings) as section:
        compose, compose_file = _compose(section.node_of("compose"), findings)
        settings = section.node_of("settings")
        build = Build(
            image=section.text("image"),
            dockerfile=section.text("dockerfile"),
            target=section.text("build-target", "build_target"),
            args=section.scalars("args"),
            ignorefile=section.text("ignorefile"),
            builder=section.text("builder"),
            buildpacks=section.texts("buildpacks"),
            builtin=section.text("builtin"),
            settings=settings.plain if settings is not None and settings.is_table else {},
            compression=_compression(section),
            compression_level=_level(section),
            compose=compose,
            compose_file=compose_file,
        )
    ways = {
        "image": build.image,
        "dockerfile": build.dockerfile,
        "buildpacks": build.builder or build.buildpacks,
        "builtin": build.builtin,
        "compose": build.compose,
    }
    given = [name for name, value in ways.items() if value]
    if len(given) > 1:
        findings.warn(node, f"more than one build configuration found: [{', '.join(given)}]")
    return build


def _compose(node: Node | None, findings: Findings) -> tuple[bool, str]:
    if node is None:
        return False, ""
    with Section(node, findings) as section:
        return True, section.text("file")


def _compression(section: Section) -> str:
    said = section.text("compression")
    if said not in ("", "gzip", "zstd"):
        section.findings.error(
            section.place_of("compression"),
            f"Invalid value '{said}' for compression. Valid options are 'gzip', 'zstd', or leave unset.",
        )
    return said


def _level(section: Section) -> int | None:
    node = section.node_of("compression_level")
    if node is None:
        return None
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 9:
        shown = value if isinstance(value, int) and not isinstance(value, bool) else kind(value)
        section.findings.error(
            node, f"Invalid value '{shown}' for compression level. Must be an integer between 0 and 9."
        )
        return None
    return value
