"""A Procfile says what a project runs: one process group a line. What it is built with, its language says."""

from __future__ import annotations

import re

from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.settings import Default, Settings, as_command, env, process, release

NAME = "Procfile"
_LINE = re.compile(r"^[ \t]*([A-Za-z0-9_-]+)\s*:\s*(.+?)\s*$")


def lines(folder: Folder) -> dict[str, str]:
    """Group to command. `release` is among them."""
    found = {}
    for line in folder.text(NAME).splitlines():
        match = None if line.lstrip().startswith("#") else _LINE.match(line)
        if match:
            found[match[1]] = match[2]
    return found


def over(settings: Settings, commands: dict[str, str]) -> Settings:
    """The settings of a language, run as the Procfile says."""
    groups = {group: command for group, command in commands.items() if group != "release"}
    more: list[Default] = []
    if groups:
        settings = settings.without(("processes",))
        more += [process(group, as_command(command), f"{group} of the Procfile") for group, command in groups.items()]
    if "release" in commands:
        more.append(release(as_command(commands["release"]), "release of the Procfile, run once before each deploy"))
    if groups and "web" not in groups:
        return settings.without(("http_service",)).plus(*more)
    if groups and settings.port is not None:
        more.append(Default(("http_service", "processes"), ["web"], "requests go to web, as at Heroku"))
        more.append(env("PORT", settings.port, "where the Procfile's web listens"))
    return settings.plus(*more)
