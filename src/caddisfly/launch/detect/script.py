"""Pieces of Dockerfiles that many recipes share, written for buildah 1.28 as well as for BuildKit.

What BuildKit alone has (`COPY --link`, heredocs, `RUN --mount=type=cache`) is not used: the order of the instructions
caches as well. Files of the app belong to root and its process to somebody else, so that a hole in the app does not
rewrite the app; what it must write is given to it by name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

UID = 1000
ADD_USER = f"RUN useradd --uid {UID} --create-home --shell /usr/sbin/nologin app"
ADD_USER_ALPINE = f"RUN adduser -D -u {UID} app"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def text(*lines: str | None) -> str:
    """One instruction, comment or empty line each. None is left out; empty lines that divide nothing are, too."""
    kept: list[str] = []
    for line in lines:
        if line is None or (line == "" and (not kept or kept[-1] == "" or kept[-1].startswith("FROM "))):
            continue
        kept.append(line)
    return "\n".join(kept).rstrip("\n") + "\n"


def cmd(words: Sequence[str]) -> str:
    """Without a shell, so that the process itself gets the signal to stop."""
    return f"CMD {json.dumps(list(words), ensure_ascii=False)}"


def apt(*packages: str) -> str | None:
    if not packages:
        return None
    names = " ".join(sorted(set(packages)))
    return (
        f"RUN apt-get update \\\n && apt-get install --yes --no-install-recommends {names} \\\n"
        " && rm -rf /var/lib/apt/lists/*"
    )


def apk(*packages: str) -> str | None:
    return f"RUN apk add --no-cache {' '.join(sorted(set(packages)))}" if packages else None


def copy(sources: Sequence[str], destination: str = "./") -> str | None:
    """Paths with spaces in the JSON form."""
    if not sources:
        return None
    if any(" " in source for source in sources):
        return f"COPY {json.dumps([*sources, destination])}"
    return f"COPY {' '.join(sources)} {destination}"


def run(*commands: str) -> str:
    return "RUN " + " \\\n && ".join(commands)


def env(**values: object) -> str:
    return "ENV " + " \\\n    ".join(f"{name}={_quoted(str(value))}" for name, value in values.items())


def owned(*directories: str, user: str = "app") -> str:
    """Directories that the app may write to."""
    names = " ".join(directories)
    return f"RUN mkdir -p {names} && chown -R {user}:{user} {names}"


def _quoted(value: str) -> str:
    return json.dumps(value) if not value or any(character in value for character in " \"'#") else value
