"""The nouns of detection: a framework, the evidence for it, and the recipe that runs it.

A framework is two functions. `look` says what in the folder speaks for it, with points; none means no. `cook` says how
such an app is built and run. They are apart so that looking at everything is cheap, and so that `--framework` can have
the recipe of something that was not seen.

Points mean the same everywhere, so that sums compare:

    50  only this framework has it, or the app depends on it by name
    30  a file that its apps begin with
    20  its language's manifest
    10  what fits, and would fit others

A framework also counts its language's points, so it beats the language alone. A tie is said, and the order of the
catalog, which is Fly's, decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.settings import Settings
from caddisfly.launch.detect.versions import Interpreters, Version

NAMED, ENTRY, MANIFEST, FITS = 50, 30, 20, 10


@dataclass(frozen=True, slots=True)
class Evidence:
    text: str
    points: int


@dataclass(frozen=True, slots=True)
class File:
    """To be written into the folder."""

    path: str
    content: str
    executable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How an app is built and run. `start` is the image's CMD, empty where an image of somebody else knows it."""

    runtime: str = ""
    version: Version | None = None
    start: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)
    files: tuple[File, ...] = ()
    ignored: tuple[str, ...] = ()
    """Lines of `.dockerignore` that this runtime needs beyond those for all."""
    review: tuple[str, ...] = ()
    """What somebody must look at before the first deploy: launch stops short of it."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Framework:
    """`rich`: its settings are worth having even if the project brings a Dockerfile of its own.

    `bare`: a language and no framework, which goes without saying beside a framework.
    """

    name: str
    title: str
    look: Callable[[Folder], tuple[Evidence, ...]]
    cook: Callable[[Folder, Interpreters], Recipe]
    rich: bool = False
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    framework: Framework
    evidence: tuple[Evidence, ...]

    @property
    def score(self) -> int:
        return sum(one.points for one in self.evidence)

    @property
    def reasons(self) -> str:
        """`found manage.py, django in requirements.txt`."""
        texts = [one.text for one in self.evidence]
        said = [text for text in texts if not any(other.endswith(f" in {text}") for other in texts)]
        return "found " + ", ".join(said)


def evidence(*seen: tuple[object, str, int]) -> tuple[Evidence, ...]:
    """What is true of `(is it so, what was seen, points)`."""
    return tuple(Evidence(text, points) for so, text, points in seen if so)
