"""How many Machines of a group each region gets. Pure (reference fly-launch, 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from caddisfly.model.errors import InvalidArgument


def spread(present: Mapping[str, int], total: int, regions: Sequence[str], most: int | None = None) -> dict[str, int]:
    """How many each of `regions` should have in the end, `most` at most, with as little change as can be.

    Raises `InvalidArgument` when so many do not fit.
    """
    order = list(dict.fromkeys(regions))
    if most is not None and len(order) * most < total:
        raise InvalidArgument(
            "the number of regions by the maximum machines per region is fewer than the expected total",
            why=f"{len(order)} regions with at most {most} Machines each have no room for {total}",
            next="name more regions, or allow more in each",
        )
    wanted = {region: present.get(region, 0) for region in order}
    if most is not None:
        wanted = {region: min(count, most) for region, count in wanted.items()}
    at = 0
    while sum(wanted.values()) < total:
        region = order[at % len(order)]
        if most is None or wanted[region] < most:
            wanted[region] += 1
        at += 1
    at = 1  # so that the first region keeps its Machines longest
    while sum(wanted.values()) > total:
        region = order[at % len(order)]
        if wanted[region]:
            wanted[region] -= 1
        at += 1
    return wanted
