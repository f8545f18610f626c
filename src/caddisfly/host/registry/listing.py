"""Long lists in pages: `n` and `last` in, a `Link` to the next page out."""

from __future__ import annotations

from urllib.parse import urlencode

from caddisfly.host.registry import refusals
from caddisfly.host.registry.call import Call

MOST = 1000
"""Entries of one page, whatever a client wants."""


def page(names: list[str], call: Call) -> tuple[list[str], dict[str, str]]:
    """A page of sorted names, and the header that leads to the next."""
    wanted = call.query.get("n", str(MOST))
    if not wanted.isdigit() or len(wanted) > 9:
        raise refusals.Refusal(400, "PAGINATION_NUMBER_INVALID", "n is not a number", next="say how many, as in n=100")
    number = min(int(wanted), MOST)
    last = call.query.get("last", "")
    left = [name for name in names if name > last]
    shown = left[:number]
    if len(left) <= number or not shown:
        return shown, {}
    query = {**call.query, "n": str(number), "last": shown[-1]}
    return shown, {"Link": f'<{call.path}?{urlencode(query)}>; rel="next"'}
