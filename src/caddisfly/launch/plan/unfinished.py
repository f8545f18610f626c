"""What a launch intends, kept on this computer from before its first effect until its last one is done.

A launch that is killed in the middle leaves an app without a folder, or a folder that detection reads differently
because half of it was written. The next one in the same folder finds the note and goes on: the same name, the same
key, by which the platform knows that it is the same app, and the framework that was found the first time.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from caddisfly.model import ids
from caddisfly.model.errors import FailedPrecondition


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """`name` is empty when nothing is under way."""

    path: Path
    name: str = ""
    key: str = ""
    framework: str = ""

    @classmethod
    def read(cls, state: Path, *, file: Path, api_url: str) -> Unfinished:
        """Of the launch that writes this fly.toml, on this platform. `state` is where such notes are kept."""
        id = hashlib.sha256(f"{file.resolve()}\n{api_url}".encode()).hexdigest()[:32]
        path = state / f"{id}.json"
        try:
            kept = json.loads(path.read_text())
            return cls(path=path, name=kept["name"], key=kept["key"], framework=kept["framework"])
        except FileNotFoundError:
            return cls(path=path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FailedPrecondition(
                f"{path} cannot be read", why=f"an earlier launch left it: {error}", next="remove it, and try again"
            ) from error

    def intending(self, name: str, *, framework: str) -> Unfinished:
        """On disk when this returns. Another name gets another key."""
        key = self.key if name == self.name else ids.ulid()
        noted = replace(self, name=name, key=key, framework=framework)
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self.path.with_suffix(".draft")
        with draft.open("w") as file:
            json.dump({key: value for key, value in asdict(noted).items() if key != "path"}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)
        return noted

    def done(self) -> None:
        self.path.unlink(missing_ok=True)
