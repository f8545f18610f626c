"""From where Machines are to where they should be. Pure, and Fly's own rule (reference fly-launch, 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from caddisfly.model.errors import InvalidArgument


def converge(
    present: Mapping[str, int], total: int, regions: Sequence[str], *, max_per_region: int | None = None
) -> dict[str, int]:
    """How many more, or fewer, each of `regions`, at least one, should have to make `total`: those that change.

    What stands elsewhere neither counts nor changes. The first region gets the first and keeps the last. Raises
    `InvalidArgument` when there is no room for so many.
    """
    order = tuple(dict.fromkeys(regions))
    if max_per_region is not None and len(order) * max_per_region < total:
        raise InvalidArgument(
            "the number of regions by the maximum machines per region is fewer than the expected total",
            why=f"{len(order)} regions with at most {max_per_region} each, for {total} Machines",
            next="name more regions with --region, or another --max-per-region (-1: any number)",
        )
    most = max((total, *present.values())) if max_per_region is None else max_per_region
    after = {region: min(present.get(region, 0), most) for region in order}
    while (missing := total - sum(after.values())) > 0:
        free = [region for region in order if after[region] < most]
        for region in free[:missing]:
            after[region] += 1
    turn = 0
    while sum(after.values()) > total:
        turn = (turn + 1) % len(order)
        if after[order[turn]] > 0:
            after[order[turn]] -= 1
    changes = {region: after[region] - present.get(region, 0) for region in order}
    return {region: change for region, change in changes.items() if change}
