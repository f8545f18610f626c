"""Options that the operator's commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option("--config", help="Settings file. Default: CADDIS_CONFIG, else /etc/caddisfly/caddisfly.toml."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
