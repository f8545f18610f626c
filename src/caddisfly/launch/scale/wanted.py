"""`caddis scale count 3 worker=+1`: what its words ask for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from caddisfly.launch.config.extension import COUNT_MAX
from caddisfly.launch.config.processes import ONLY_GROUP
from caddisfly.model.errors import InvalidArgument

_WORD = re.compile(r"(?:(?P<group>[^=]+)=)?(?P<sign>[+-]?)(?P<number>\d{1,9})")


@dataclass(frozen=True, slots=True)
class Count:
    """So many, or so many more or fewer than there are."""

    number: int
    relative: bool = False

    def from_present(self, present: int) -> int:
        """Raises `InvalidArgument`."""
        total = present + self.number if self.relative else self.number
        if not 0 <= total <= COUNT_MAX:
            raise InvalidArgument(
                f"{total} is no number of Machines", why=f"from 0 to {COUNT_MAX}; there are {present}"
            )
        return total


def parse(words: Sequence[str], *, groups: Sequence[str], default: str = "") -> dict[str, Count]:
    """By group. A bare number is about `default`, else `app`, else the only group. Raises `InvalidArgument`."""
    found: dict[str, Count] = {}
    for word in words:
        match = _WORD.fullmatch(word)
        if match is None:
            raise InvalidArgument(f"{word!r} is not a count", next="such as 3, +1, web=2 or, after --, -1")
        group = match["group"] or default or _only(groups)
        if group in found:
            raise InvalidArgument(f"two counts for process group '{group}'")
        number = int(match["number"])
        found[group] = Count(-number if match["sign"] == "-" else number, relative=bool(match["sign"]))
    unknown = sorted(set(found) - set(groups))
    if unknown:
        raise InvalidArgument(
            f"Attempting to scale unknown process groups {', '.join(unknown)}",
            next=f"this app has {', '.join(groups)}" if groups else "caddis deploy makes the first Machines",
        )
    return found


def _only(groups: Sequence[str]) -> str:
    if ONLY_GROUP in groups or len(groups) != 1:
        if len(groups) > 1 and ONLY_GROUP not in groups:
            raise InvalidArgument(
                "which process group?", why=f"this app has {', '.join(groups)}", next=f"such as {groups[0]}=2"
            )
        return ONLY_GROUP
    return groups[0]
