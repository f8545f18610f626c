"""Groups of commands that come up quickly: Rich's help pages cost more time than everything else of `--help`."""

from __future__ import annotations

import typer


def group(help: str) -> typer.Typer:
    """Help and usage errors in plain text; results may still be drawn."""
    return typer.Typer(
        help=help,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
