"""The layers of an image on their way, one line each, as `docker pull` shows them.

Bars where somebody looks; on a pipe one line for each thing that happened to a layer, so that logs stay readable.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

from caddisfly.bus.contract import LayerProgress
from caddisfly.cli import show

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_WORDS = {
    "waiting": "Waiting",
    "downloading": "Downloading",
    "unpacking": "Extracting",
    "ready": "Pull complete",
}


class Bars:
    """Use as a block; `update` as often as something is known."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._said: dict[str, str] = {}
        self._tasks: dict[str, TaskID] = {}
        self._drawn: Progress | None = None

    def __enter__(self) -> Bars:
        import sys

        if not sys.stderr.isatty():
            show.note(f"Pulling {self._name}")
            return self
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        self._drawn = Progress(
            TextColumn("{task.fields[digest]}"),
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=Console(stderr=True),
        )
        self._drawn.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn is not None:
            self._drawn.stop()

    def update(self, layers: Iterable[LayerProgress], *, ended: bool = False) -> None:
        """Show how far the layers are. Those that were ready when first seen were here before."""
        for layer in layers:
            short = layer.digest.removeprefix("sha256:")[:12]
            first = layer.digest not in self._said
            words = "Already exists" if first and layer.state == "ready" and not ended else _WORDS.get(layer.state, "")
            if self._said.get(layer.digest) == "Already exists":
                words = "Already exists"
            if self._drawn is not None:
                self._draw(self._drawn, layer, short, words)
            elif self._said.get(layer.digest) != words:
                show.note(f"{short}: {words}")
            self._said[layer.digest] = words

    def _draw(self, drawn: Progress, layer: LayerProgress, short: str, words: str) -> None:
        with suppress(KeyError):
            drawn.update(self._tasks[layer.digest], description=words, completed=layer.done)
            return
        self._tasks[layer.digest] = drawn.add_task(words, total=layer.size, completed=layer.done, digest=short)
