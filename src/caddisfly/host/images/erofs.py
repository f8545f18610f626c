"""Read-only file systems in a file, for what many guests share."""

from __future__ import annotations

import subprocess
from pathlib import Path

from caddisfly.host.images.blobs import disk_problem
from caddisfly.model.errors import FailedPrecondition

_TIMEOUT_S = 600


def build(tree: Path, target: Path) -> None:
    """Make `target` of a directory; whole or not at all. Raises `FailedPrecondition` without mkfs.erofs."""
    draft = target.with_suffix(".new")
    draft.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            ["mkfs.erofs", "--quiet", "-zlz4", draft, tree], capture_output=True, check=False, timeout=_TIMEOUT_S
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()[-500:]
            raise FailedPrecondition("a read-only drive cannot be made", why=said)
        draft.replace(target)
    except subprocess.TimeoutExpired as error:
        raise FailedPrecondition(
            "a read-only drive cannot be made",
            why=f"mkfs.erofs took longer than {_TIMEOUT_S} s",
            next="run a smaller image, or this one as a container",
        ) from error
    except FileNotFoundError as error:
        raise FailedPrecondition("mkfs.erofs is not installed", next="apt-get install erofs-utils") from error
    except OSError as error:
        raise disk_problem(error, doing=f"make {target.name}", disk=target.parent) from error
    finally:
        draft.unlink(missing_ok=True)
