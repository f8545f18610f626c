"""What the Machine of `caddis console` is to be: from a fly.toml, the release that is deployed, or other Machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caddisfly.client.errors import NotFoundError
from caddisfly.launch.config import AppConfig, app_name, console_machine, find_and_load, loading, locate, of_release
from caddisfly.launch.config.running import Machine, managed
from caddisfly.model.errors import FailedPrecondition, NotFound

if TYPE_CHECKING:
    from caddisfly.client import Client


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """`command` is what the fly.toml says to run in it, empty for a shell; `source` where the rest was found."""

    app: str
    config: dict[str, Any]
    region: str
    command: tuple[str, ...]
    source: str


def plan(
    client: Client,
    app: str,
    *,
    file: str = "",
    image: str = "",
    env: Mapping[str, str],
    guest: Mapping[str, Any],
    needs_image: bool = True,
    directory: Path | None = None,
) -> Console:
    """What to make. The file here goes before the release that is deployed; the image is that of the release.

    Without `needs_image` nothing will be made, only the command is wanted.
    Raises `FailedPrecondition` when nothing says which image, `ConfigInvalid` for a file that is wrong.
    """
    here = _here(file, directory)
    name = app_name(app, here.app if here else "")
    if file and here is not None:
        locate.refuse_other(name, here.app, file)
    elif here is not None and here.app and here.app != name:
        here = None  # the folder of another app
    release = _release(client, name)
    config = here or (of_release(release["definition"]) if release.get("definition") else loading.text(""))
    found = image or str(release.get("image_ref") or "") or _commonest(managed(client.machines.list(name)))
    if not found and needs_image:
        raise FailedPrecondition(
            f"which image? app {name} was never deployed and has no Machines",
            next="name one with --image, or caddis deploy",
        )
    wire = console_machine(config, image=found, guest=guest)
    wire["env"] = {**wire.get("env", {}), **env}
    source = ", ".join(config.sources) if here else "the release that is deployed" if release else "the app's Machines"
    return Console(app=name, config=wire, region=config.primary_region, command=config.console_command, source=source)


def _here(file: str, directory: Path | None) -> AppConfig | None:
    try:
        return find_and_load(file, directory=directory, strict=False)
    except NotFound:
        if file:
            raise
        return None


def _release(client: Client, app: str) -> Mapping[str, Any]:
    try:
        release: Mapping[str, Any] = client.releases.get(app)
    except NotFoundError:
        return {}
    return release


def _commonest(machines: Sequence[Machine]) -> str:
    images = Counter(str((machine.get("config") or {}).get("image") or "") for machine in machines)
    return images.most_common(1)[0][0] if images else ""
