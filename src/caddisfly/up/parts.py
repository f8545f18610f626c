"""The parts that `caddis up` is made of, and how one of them becomes this process (`caddis run <part>`).

Rooms are imported only by the process that is that room: what an edge does not import, every edge on every core does
not carry. A part that has a supervisor asks the kernel to be told when it dies (see `up.supervisor`).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from caddisfly.model.errors import InvalidArgument, Unavailable
from caddisfly.up.settings import Settings, load

_PR_SET_PDEATHSIG = 1
NAMES = ("bus", "control", "agent", "registry", "edge")


def run(part: str, *, config: Path | None = None) -> None:
    """Become this part until SIGTERM or SIGINT. `part` is one of `NAMES`; workers of the edge are `edge@0`, `edge@1`…

    Raises `InvalidArgument` for an unknown part or a wrong setting.
    """
    name, _, worker = part.partition("@")
    if name not in NAMES or (worker and (name != "edge" or not worker.isdecimal())):
        raise InvalidArgument(f"unknown part {part!r}", next=f"choose one of {', '.join(NAMES)}, or edge@<number>")
    _follow_supervisor()
    settings = load(config)
    if name == "bus":
        _become_bus(settings)
    from caddisfly.observe import logs

    logs.configure(part, settings.platform.log_level, format=settings.platform.log_format)
    if name == "control":
        from caddisfly.control import server

        server.main(settings.control)
    elif name == "agent":
        _be_agent(settings)
    elif name == "registry":
        _be_registry(settings)
    else:
        from caddisfly.edge import worker as edge_worker

        edge_worker.main(settings.edge, number=worker or "0")


def _be_agent(settings: Settings) -> None:
    from caddisfly.host import agent
    from caddisfly.host.builds.buildah import Destination
    from caddisfly.host.registry.layout import NAME as REGISTRY
    from caddisfly.host.registry.layout import Layout
    from caddisfly.model.registry import names as platform_names

    registry = settings.registry
    own = Destination(names=platform_names(settings.platform.domain), address=registry.address)
    agent.main(
        settings.host,
        settings.images,
        builds=settings.builds,
        # Contexts are read where they lie, so builds are for hosts that have the registry.
        registry=own if settings.own_registry else None,
        repositories=Layout(registry.store / REGISTRY),
    )


def _be_registry(settings: Settings) -> None:
    if not settings.own_registry:
        raise InvalidArgument(
            "this computer has no registry of its own",
            why=f"[registry] url is {settings.registry.url}",
            next="remove that setting",
        )
    from caddisfly.host.registry import server

    server.main(settings.registry)


def _become_bus(settings: Settings) -> None:
    """Replace this process by nats-server."""
    if not settings.own_bus:
        raise InvalidArgument(
            "this computer has no bus of its own", why=f"[bus] url is {settings.bus.url}", next="remove that setting"
        )
    from caddisfly.bus import server

    run_dir = settings.platform.run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    text = server.configuration(
        host=settings.bus.host,
        port=settings.bus.port,
        token=settings.bus_token,
        directory=settings.platform.data_dir / "bus",
    )
    file = run_dir / "bus.conf"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as stream:
        stream.write(text)
    binary = server.binary()
    os.execv(binary, [str(binary), "-c", str(file)])


def _follow_supervisor() -> None:
    """Get SIGTERM when the supervisor dies. It survives the exec of nats-server."""
    supervisor = os.environ.pop("CADDIS_SUPERVISOR", "")
    if not supervisor:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(supervisor):
        raise Unavailable("the supervisor is gone already", next="caddis up")


def command(part: str, config: Path | None) -> tuple[str, ...]:
    """The command line that starts a part with this very interpreter."""
    words = [sys.executable, "-m", "caddisfly", "run", part]
    return (*words, "--config", str(config)) if config else tuple(words)
