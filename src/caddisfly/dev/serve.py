"""The foreground of `caddis dev`: start, say where it is, show what Machines do, end on a signal."""

from __future__ import annotations

import asyncio
import gc
import json as json_text
import logging
import os
import signal
import sys
import time
from collections.abc import Callable

import uvloop

from caddisfly.cli import show
from caddisfly.dev.options import Options
from caddisfly.dev.platform import Platform
from caddisfly.model.errors import InvalidArgument
from caddisfly.model.machine import Machine
from caddisfly.observe import logs


def main(options: Options, *, json: bool, quiet: bool, until_eof: bool) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, or with `until_eof` until standard input ends."""
    logs.configure("dev", "error")
    logging.getLogger("caddisfly.dev").setLevel(logging.ERROR if quiet else logging.WARNING)
    uvloop.run(_serve(options, json=json, quiet=quiet, until_eof=until_eof))


async def _serve(options: Options, *, json: bool, quiet: bool, until_eof: bool) -> None:
    began = time.monotonic()
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, ending.set)
    if until_eof:
        _watch_input(loop, ending.set)
    platform = Platform(options)
    starting = asyncio.create_task(platform.start(), name="start")
    ended = asyncio.create_task(ending.wait(), name="ending")
    await asyncio.wait((starting, ended), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return
    starting.result()
    gc.collect()
    gc.freeze()  # what is loaded now stays: no later collection needs to look at it
    _announce(platform, json=json, took_s=time.monotonic() - began)
    with platform.control.projection.listening(_nobody if quiet else _tell):
        await ended
    if not json:
        show.note("\nEnding.")
    await platform.stop()


def _announce(platform: Platform, *, json: bool, took_s: float) -> None:
    environment = {"FLY_API_TOKEN": platform.token, "FLY_FLAPS_BASE_URL": platform.url}
    regions = platform.options.regions
    if json:
        facts = {"url": platform.url, "token": platform.token, "regions": regions, "pid": os.getpid()}
        sys.stdout.write(json_text.dumps({**facts, "env": environment}) + "\n")
        sys.stdout.flush()
        return
    hosts = len(platform.options.hosts)
    show.note(
        f"Fly's Machines API at {platform.url}, ready in {took_s:.1f} s: "
        f"{hosts} simulated host{'s' * (hosts != 1)} in {', '.join(regions)}. Nothing runs.\n"
    )
    show.line("export " + " ".join(f"{name}={value}" for name, value in environment.items()))
    sys.stdout.flush()
    kept = platform.options.data_dir
    show.note(
        "\nPaste that line where your program runs, or try `caddis apps create hello` and\n"
        "`caddis machine run nginx -a hello` there. `caddis dev --words` lists how Machines can fail.\n"
        f"Ctrl-C ends it; {f'what there is stays in {kept}' if kept else 'everything is forgotten then'}.\n"
    )


def _tell(old: Machine | None, new: Machine | None) -> None:
    """One line for each change of state."""
    if new is None or (old is not None and old.state == new.state):
        return
    stamp = time.strftime("%H:%M:%S")
    show.note(f"{stamp}  {new.region}  {new.id}  {new.app_name}/{new.name}  {new.state}{_why(old, new)}")


def _why(old: Machine | None, new: Machine) -> str:
    exit = new.newest("exit")
    if exit is None or (old is not None and old.newest("exit") == exit):
        return ""
    facts = (exit.request or {}).get("exit_event", {})
    if facts.get("error"):
        return f"  ({facts['error']})"
    return "  (out of memory)" if facts.get("oom_killed") else f"  (exit code {facts.get('exit_code')})"


def _nobody(old: Machine | None, new: Machine | None) -> None:
    """Nobody is told."""


def _watch_input(loop: asyncio.AbstractEventLoop, end: Callable[[], None]) -> None:
    def read() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            end()

    try:
        loop.add_reader(0, read)
    except (OSError, ValueError) as error:
        raise InvalidArgument(
            "--until-eof needs a pipe", why=f"standard input cannot be waited for: {error}", next="leave it out"
        ) from error
