"""The command `caddis dev`. Thin, and lazy: `caddis --help` imports nothing of what it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caddisfly.cli import show


def register(app: typer.Typer) -> None:
    app.command()(dev)


def dev(
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port of the API; 0 takes a free one.")] = 4280,
    listen: Annotated[str, typer.Option(help="Address of the API, such as 0.0.0.0 inside a container.")] = "127.0.0.1",
    regions: Annotated[str, typer.Option(help="A simulated host in each; twice makes two.")] = "ams,fra,ord",
    chaos: Annotated[str, typer.Option(help="How Machines fail, such as 'start-error=5%,slow-start=200ms..2s'.")] = "",
    image: Annotated[
        list[str] | None, typer.Option(help="PATTERN=WORDS: how Machines of these images act. May be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same failures, start by start.")] = 0,
    cpus: Annotated[int, typer.Option(min=1, help="CPUs of each host.")] = 64,
    memory_mb: Annotated[int, typer.Option("--memory", min=256, help="Memory of each host in MiB.")] = 262_144,
    data_dir: Annotated[
        Path | None, typer.Option(help="Keep apps, Machines and the token here. Default: all is forgotten at the end.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", "-j", help="Print one line of JSON when ready.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not show what Machines do.")] = False,
    until_eof: Annotated[
        bool, typer.Option("--until-eof", help="End when standard input does: with the program that started this.")
    ] = False,
    words: Annotated[bool, typer.Option("--words", help="List the words of --chaos, and end.")] = False,
) -> None:
    """Serve the Machines API on simulated hosts, for testing programs that use it. No root, nothing runs."""
    if words:
        from caddisfly.host.drivers.conduct import described

        show.table(("WORD", "WITHOUT A VALUE", "MEANING"), described())
        return
    from caddisfly.dev import options, serve

    asked = options.parse(
        listen=listen,
        port=port,
        regions=regions,
        chaos=chaos,
        images=tuple(image or ()),
        seed=seed,
        cpus=cpus,
        memory_mb=memory_mb,
        data_dir=data_dir.absolute() if data_dir else None,
    )
    serve.main(asked, json=json, quiet=quiet or json, until_eof=until_eof)
