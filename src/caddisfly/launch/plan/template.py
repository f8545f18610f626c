"""A folder from a repository: cloned whole, or nothing is left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from caddisfly.model.errors import FailedPrecondition

_TIMEOUT_S = 600


def fetched(url: str, into: Path, *, asks: bool) -> bool:
    """False when it is there already. `asks`: git may ask for a password.

    Raises `FailedPrecondition` when the directory holds something else, or git cannot clone.
    """
    if (into / ".git").exists() and _git("-C", str(into), "config", "--get", "remote.origin.url", asks=asks) == url:
        return False
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise FailedPrecondition(
            f"{into} is not empty",
            why=f"{url} is to be cloned into it",
            next="--into with a directory that is not there",
        )
    parent = into.resolve().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".caddis-launch-", dir=parent))
    except OSError as error:
        raise FailedPrecondition(f"nothing can be written in {parent}", why=error.strerror or str(error)) from error
    try:
        _git("clone", "--quiet", "--depth", "1", "--recurse-submodules", "--", url, str(draft / "clone"), asks=asks)
        into.mkdir(exist_ok=True)
        # Entry by entry, because somebody's shell is in this directory. What says that it is whole comes last.
        for entry in sorted((draft / "clone").iterdir(), key=lambda entry: entry.name == ".git"):
            entry.rename(into.resolve() / entry.name)
    finally:
        shutil.rmtree(draft)
    return True


def _git(*words: str, asks: bool) -> str:
    environment = {**os.environ, **({} if asks else {"GIT_TERMINAL_PROMPT": "0"})}
    try:
        done = subprocess.run(
            ["git", *words],
            env=environment,
            stdin=None if asks else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise FailedPrecondition(
            "there is no git here", why="--from clones a repository", next="install git"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise FailedPrecondition(
            f"git did not end within {_TIMEOUT_S} s", next="clone it by hand, then launch"
        ) from error
    if done.returncode and words[0] == "clone":
        raise FailedPrecondition(
            f"git cannot clone {words[-2]}", why=done.stderr.strip(), next="correct the address, or clone it by hand"
        )
    return done.stdout.strip()
