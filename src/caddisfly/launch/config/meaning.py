"""All that a fly.toml means, as JSON: what `config show --json` prints."""

from __future__ import annotations

from typing import Any

from caddisfly.launch.config.app_config import AppConfig
from caddisfly.launch.config.build import Build
from caddisfly.launch.config.mounts import Mount
from caddisfly.launch.config.translate import machine_config, release_machine


def meaning(app: AppConfig) -> dict[str, Any]:
    deploy = app.deploy
    return {
        "app": app.app,
        "files": list(app.sources),
        "primary_region": app.primary_region,
        "build": _build(app.build),
        "deploy": {
            "strategy": deploy.strategy,
            "max_unavailable": deploy.max_unavailable,
            "wait_timeout": str(deploy.wait_timeout),
            "release_command": list(deploy.release_command),
            "release_command_timeout": str(deploy.release_command_timeout),
            "seed_command": list(deploy.seed_command),
        },
        "console_command": list(app.console_command),
        "groups": {name: _group(app, name) for name in app.groups.names},
        "release_machine": release_machine(app) if deploy.release_command else None,
    }


def _group(app: AppConfig, name: str) -> dict[str, Any]:
    placement = app.placement(name)
    return {
        "count": placement.count,
        "regions": list(placement.regions),
        "max_per_region": placement.max_per_region,
        "volumes": [_volume(mount) for mount in app.mounts_of(name)],
        "machine_checks": [list(check.command) for check in app.machine_checks_of(name)],
        "config": machine_config(app, name),
    }


def _volume(mount: Mount) -> dict[str, Any]:
    return {
        "name": mount.source,
        "size_gb": mount.initial_size_gb or 1,
        "snapshot_retention": mount.snapshot_retention_days,
        "auto_backup_enabled": mount.scheduled_snapshots,
    }


def _build(build: Build) -> dict[str, Any]:
    wire = {
        "image": build.image,
        "dockerfile": build.dockerfile,
        "target": build.target,
        "args": dict(build.args),
        "ignorefile": build.ignorefile,
        "builder": build.builder,
        "buildpacks": list(build.buildpacks),
        "builtin": build.builtin,
        "settings": dict(build.settings),
        "compression": build.compression,
        "compression_level": build.compression_level,
        "compose_file": build.compose_file,
    }
    return {name: value for name, value in wire.items() if value not in ("", None, {}, [])}
