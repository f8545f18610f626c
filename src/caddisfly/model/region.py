"""Regions: codes of three letters, where they are, and the aliases that stand for several (reference A-P1, M2)."""

from __future__ import annotations

from dataclasses import dataclass

from caddisfly.model.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Region:
    """A place. Latitude and longitude are degrees."""

    code: str
    name: str
    latitude: float
    longitude: float
    geo_region: str
    gateway_available: bool = True


KNOWN = {
    region.code: region
    for region in (
        Region("ams", "Amsterdam, Netherlands", 52.37, 4.90, "europe"),
        Region("arn", "Stockholm, Sweden", 59.33, 18.07, "europe"),
        Region("bom", "Mumbai, India", 19.08, 72.88, "asia_pacific"),
        Region("cdg", "Paris, France", 48.86, 2.35, "europe"),
        Region("dfw", "Dallas, Texas (US)", 32.78, -96.80, "north_america"),
        Region("ewr", "Secaucus, NJ (US)", 40.79, -74.06, "north_america"),
        Region("fra", "Frankfurt, Germany", 50.11, 8.68, "europe"),
        Region("gru", "Sao Paulo, Brazil", -23.55, -46.63, "south_america", False),
        Region("iad", "Ashburn, Virginia (US)", 39.04, -77.49, "north_america"),
        Region("jnb", "Johannesburg, South Africa", -26.20, 28.05, "africa", False),
        Region("lax", "Los Angeles, California (US)", 34.05, -118.24, "north_america"),
        Region("lhr", "London, United Kingdom", 51.51, -0.13, "europe"),
        Region("nrt", "Tokyo, Japan", 35.68, 139.69, "asia_pacific"),
        Region("ord", "Chicago, Illinois (US)", 41.88, -87.63, "north_america"),
        Region("sin", "Singapore, Singapore", 1.35, 103.82, "asia_pacific"),
        Region("sjc", "San Jose, California (US)", 37.34, -121.89, "north_america"),
        Region("syd", "Sydney, Australia", -33.87, 151.21, "asia_pacific"),
        Region("yyz", "Toronto, Canada", 43.65, -79.38, "north_america"),
    )
}
ALIASES = {
    "apac": "asia_pacific",
    "eu": "europe",
    "na": "north_america",
    "us": "north_america",
    "usa": "north_america",
    "sa": "south_america",
}


def region_named(code: str) -> Region:
    """A region of the operator's own, such as `lab`, is as good as one of Fly's: it only has no place on the map."""
    return KNOWN.get(code) or Region(code, code, 0.0, 0.0, "europe", False)


def expand(expression: str, *, local: str, available: frozenset[str]) -> tuple[str, ...]:
    """Turn what a client wrote (`ams`, `ams,fra`, `eu`, `any`, nothing) into region codes, best first.

    `local` is the region of the API that was asked. Brackets, as in `[local],any`, change nothing: it is the order that
    says what is preferred.

    Raises `InvalidArgument` when nothing of it has a host.
    """
    if not expression:
        return (local,) if local in available else tuple(sorted(available))
    found: list[str] = []
    for word in (word.strip(" []") for word in expression.split(",")):
        if word == "local":
            found.append(local)
        elif word == "any":
            found += [local, *sorted(available)]
        elif word in ALIASES:
            found += [code for code in sorted(available) if region_named(code).geo_region == ALIASES[word]]
        else:
            found.append(word)
    usable = tuple(dict.fromkeys(code for code in found if code in available))
    if not usable:
        raise InvalidArgument(
            f"no host in region {expression!r}",
            next=f"choose one of {', '.join(sorted(available)) or '(no host is up)'}",
        )
    return usable
