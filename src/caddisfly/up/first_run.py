"""The first start on a computer: the first user exists afterwards, and the one who ran it is logged in."""

from __future__ import annotations

import asyncio
from pathlib import Path

from caddisfly.cli import account
from caddisfly.up import state
from caddisfly.up.settings import Settings


def prepare(settings: Settings) -> Path | None:
    """Make records and first user if there are none. Returns the file that its token was saved in, if one was made."""
    from caddisfly.control import bootstrap

    token = asyncio.run(bootstrap.first_run(settings.control))
    if token is None:
        return None
    return account.save(account.Account(state.api_url(settings), token))


def replace_token(settings: Settings) -> Path:
    """Put a new admin token in place of a lost one, and log in with it. Returns the file that it is kept in."""
    from caddisfly.control import bootstrap

    token = asyncio.run(bootstrap.replace_token(settings.control))
    return account.save(account.Account(state.api_url(settings), token))
