"""`caddis tokens …`: tokens to give away, which reach one app and nothing else."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from caddisfly.cli import show, target
from caddisfly.cli.apps import milliseconds
from caddisfly.cli.group import group
from caddisfly.cli.target import App, AsJson


def build() -> typer.Typer:
    tokens = group("Tokens that reach one app.")
    create = group("Make a token.")
    create.command("deploy")(create_deploy)
    tokens.add_typer(create, name="create")
    tokens.command("list")(list_)
    tokens.command("revoke")(revoke)
    return tokens


def create_deploy(
    app: App = "",
    name: Annotated[str, typer.Option("--name", "-n", help="To tell it by.")] = "",
    expiry: Annotated[str, typer.Option("--expiry", "-x", help="As in 24h. Default: 20 years.")] = "",
    json: AsJson = False,
) -> None:
    """Make a token that reaches one app, for CI: FLY_API_TOKEN=$(caddis tokens create deploy -a APP -x 720h)."""
    with target.client() as client:
        made = client.apps.create_deploy_token(target.app_name(app), label=name, expiry=expiry)
    if json:
        show.result(made)
    else:
        show.line(made["token"])


def list_(app: App = "", json: AsJson = False) -> None:
    """List an app's tokens."""
    with target.client() as client:
        found = client.apps.deploy_tokens(target.app_name(app))
    if json:
        show.result(found)
        return
    now_ms = time.time() * 1000
    rows = [
        (
            token["id"],
            token["name"],
            token["user"],
            token["expires_at"] or "never",
            show.ago(milliseconds(token["last_used_at"]), now_ms) if token["last_used_at"] else "never",
        )
        for token in found
    ]
    show.table(("ID", "NAME", "USER", "EXPIRES", "USED"), rows)


def revoke(ids: Annotated[list[str], typer.Argument(metavar="ID...")], app: App = "") -> None:
    """Revoke tokens: they stop working within seconds."""
    with target.client() as client:
        for id in ids:
            client.apps.revoke_deploy_token(target.app_name(app), id)
            show.line(f"Revoked token {id}")
