"""The flags that say what a Machine is to be, shared by `machine run`, `create` and `update`."""

from __future__ import annotations

from typing import Annotated

import typer

Name = Annotated[str, typer.Option("--name", "-n", help="Name of the Machine. Default: a generated one.")]
Region = Annotated[str, typer.Option("--region", "-r", help="Region. Default: the platform's own.")]
Env = Annotated[list[str] | None, typer.Option("--env", "-e", metavar="NAME=VALUE", help="Environment.")]
Ports = Annotated[
    list[str] | None,
    typer.Option("--port", "-p", metavar="PORT[:MACHINE_PORT][/PROTOCOL[:HANDLER...]]", help="As 80:8080/tcp:http."),
]
Metadata = Annotated[list[str] | None, typer.Option("--metadata", "-m", metavar="NAME=VALUE")]
VmSize = Annotated[str, typer.Option("--vm-size", help="Preset, such as shared-cpu-2x.")]
VmMemory = Annotated[str, typer.Option("--vm-memory", help="Memory in MiB, or such as 1gb.")]
VmCpus = Annotated[int, typer.Option("--vm-cpus", min=0, help="Number of CPUs.", show_default=False)]
VmCpuKind = Annotated[str, typer.Option("--vm-cpu-kind", help="shared or performance.")]
Restart = Annotated[str, typer.Option("--restart", help="no, on-failure or always.")]
Autostop = Annotated[str, typer.Option("--autostop", help="When idle: off, stop or suspend.")]
Autostart = Annotated[
    bool | None, typer.Option("--autostart/--no-autostart", help="Whether a request wakes it.", show_default=False)
]
Entrypoint = Annotated[str, typer.Option("--entrypoint", help="Instead of the image's.")]
AutoDestroy = Annotated[bool, typer.Option("--rm", "--auto-destroy", help="Destroy it when it exits.")]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Do not wait until it runs.")]
Org = Annotated[str, typer.Option("--org", "-o", help="Organization of a new app.")]
