"""fly.toml: reading it, what it means, and the Machine configs that follow from it."""

from __future__ import annotations

from caddisfly.launch.config.app_config import AppConfig
from caddisfly.launch.config.findings import ConfigInvalid, Finding
from caddisfly.launch.config.loading import find_and_load, load, of_release, text
from caddisfly.launch.config.locate import Files, app_name, find
from caddisfly.launch.config.translate import check_machine, console_machine, machine_config, release_machine

__all__ = [
    "AppConfig",
    "ConfigInvalid",
    "Files",
    "Finding",
    "app_name",
    "check_machine",
    "console_machine",
    "find",
    "find_and_load",
    "load",
    "machine_config",
    "of_release",
    "release_machine",
    "text",
]
