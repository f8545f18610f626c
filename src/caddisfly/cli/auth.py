"""`caddis auth …`: which platform, as whom."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from caddisfly.cli import account, show, target
from caddisfly.cli.group import group
from caddisfly.cli.target import AsJson


def build() -> typer.Typer:
    auth = group("Log in and out.")
    auth.command()(login)
    auth.command()(logout)
    auth.command()(whoami)
    auth.command()(token)
    return auth


def login(
    api_url: Annotated[str, typer.Option("--api-url", help="Root of the API. Default: the one used last.")] = "",
    token: Annotated[str, typer.Option(help="Default: asked for, or read from a pipe.")] = "",
) -> None:
    """Keep a token for this computer's commands, after trying it."""
    from caddisfly.client import Client

    url = api_url.rstrip("/") or account.load().api_url
    if not token:
        token = typer.prompt("Token", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    token = token.strip()
    with Client(url, token=token) as client:
        client.apps.list()
    path = account.save(account.Account(url, token))
    show.line(f"Logged in to {url}; kept in {path}")


def logout() -> None:
    """Forget the token. It stays valid: revoke it on the platform."""
    show.line("Logged out." if account.forget() else "You were not logged in.")


def whoami(json: AsJson = False) -> None:
    """Show whose token this is."""
    from caddisfly.client import NotFoundError

    known = account.load().needed()
    with target.client() as client:
        try:
            facts = client.whoami()
        except NotFoundError:  # a server that keeps no identities: that the token works is all there is to tell
            client.apps.list()
            facts = {}
    if json:
        show.result({"api_url": known.api_url, **facts})
        return
    tokens = facts.get("tokens") or []
    show.pairs(
        {
            "API": known.api_url,
            "user": ", ".join(dict.fromkeys(one["user"] for one in tokens if one.get("user"))) or "(not told)",
            "organizations": ", ".join(dict.fromkeys(one["org_slug"] for one in tokens if one.get("org_slug"))),
        }
    )


def token() -> None:
    """Print the token, for other programs: FLY_API_TOKEN=$(caddis auth token)."""
    show.line(account.load().needed().token)
