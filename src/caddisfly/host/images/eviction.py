"""Which images to let go when there is no room: those that were not started for the longest time.

Pure: what is there and what is needed go in, the images to forget come out. An image frees only the layers that nothing
else has, so sizes are counted while choosing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """One image on this host. `kept`: a Machine needs it, it is being fetched, or it cannot be had again."""

    digest: str
    used_at: float
    layers: Mapping[str, int]
    """Bytes on this host by diff_id, and those of the disk that was made of them."""
    kept: bool


def size_of(images: Iterable[Candidate]) -> int:
    """Bytes of all layers, each counted once."""
    layers: dict[str, int] = {}
    for image in images:
        layers.update(image.layers)
    return sum(layers.values())


def choose(images: Iterable[Candidate], *, excess: int) -> list[Candidate]:
    """What to forget so that `excess` bytes become free, or all that may go when that is not enough."""
    everything = list(images)
    users = Counter(layer for image in everything for layer in image.layers)
    chosen: list[Candidate] = []
    for image in sorted((image for image in everything if not image.kept), key=lambda image: image.used_at):
        if excess <= 0:
            break
        users.subtract(image.layers.keys())
        excess -= sum(size for layer, size in image.layers.items() if users[layer] == 0)
        chosen.append(image)
    return chosen
