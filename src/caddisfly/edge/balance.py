"""Which candidate gets the next request: near before far, under its soft limit before over, the lesser loaded of two.

Two drawn at random and the better one taken ("power of two choices") spreads almost as well as always taking the best,
without all workers of all edges choosing the same Machine at the same moment.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from caddisfly.edge.candidate import Candidate

_draw = random.random


def pick(candidates: Sequence[Candidate], excluded: Collection[Candidate] = ()) -> Candidate | None:
    """The one to use, or None when every one is full or excluded."""
    if len(candidates) == 1 and not excluded:
        only = candidates[0]
        return only if only.load < only.hard else None
    open_ = [one for one in candidates if one.load < one.hard and one not in excluded]
    near = [one for one in open_ if one.near] or open_
    return _lesser([one for one in near if one.load < one.soft] or near)


def _lesser(candidates: Sequence[Candidate]) -> Candidate | None:
    count = len(candidates)
    if count < 2:
        return candidates[0] if candidates else None
    first = int(_draw() * count)
    second = int(_draw() * (count - 1))
    if second >= first:
        second += 1
    one, other = candidates[first], candidates[second]
    return one if one.load <= other.load else other
