"""The platform: where there are hosts (reference machines-api, 1.16)."""

from __future__ import annotations

from collections import Counter

from fastapi import APIRouter, Depends, Request, Response

from caddisfly.control.placement.market import nobody
from caddisfly.control.rest import shapes, wire
from caddisfly.control.rest.reach import Caller, Parts, authenticated
from caddisfly.model import registry
from caddisfly.model.config import Config
from caddisfly.model.errors import NotFound
from caddisfly.model.region import region_named

router = APIRouter(
    prefix="/v1/platform", tags=["platform"], responses=shapes.ERRORS, dependencies=[Depends(authenticated)]
)

_SMALLEST_MB = 256


@router.get("/regions", name="Platform_regions", responses=shapes.gives(shapes.RegionsReply), response_model=None)
async def list_regions(control: Parts) -> Response:
    """Regions with a host that is up. `capacity` counts the smallest machines that still fit by memory."""
    free_mb: Counter[str] = Counter()
    up = {host.id: host for host in control.hosts.up}
    for host in up.values():
        free_mb[host.region] += host.memory_mb
    for machine in control.projection.machines.values():
        if machine.alive and machine.host_id in up:
            free_mb[up[machine.host_id].region] -= machine.config.guest.memory_mb
    regions = [region_named(code) for code in sorted(free_mb)]
    local = control.settings.region
    return wire.reply(
        {
            "Regions": [
                {
                    "code": region.code,
                    "name": region.name,
                    "latitude": region.latitude,
                    "longitude": region.longitude,
                    "gateway_available": region.gateway_available,
                    "requires_paid_plan": False,
                    "deprecated": False,
                    "capacity": max(0, free_mb[region.code]) // _SMALLEST_MB,
                    "geo_region": region.geo_region,
                    "mpg_available": False,
                }
                for region in regions
            ],
            "Nearest": local if local in free_mb or not regions else regions[0].code,
        }
    )


@router.get("/registry", name="Platform_registry", responses=shapes.gives(shapes.RegistryReply), response_model=None)
async def show_registry(control: Parts) -> Response:
    """The platform's own registry: what images of it are called, and where clients push. Not in Fly's API."""
    settings = control.settings
    if not settings.domain or not settings.registry_public_url:
        raise NotFound("this platform has no registry")
    return wire.reply({"host": registry.host_name(settings.domain), "url": settings.registry_public_url})


@router.post(
    "/placements",
    name="Platform_placements",
    responses=shapes.gives(shapes.PlacementsReply),
    response_model=None,
    openapi_extra=shapes.takes(shapes.PlacementBody),
)
async def find_placements(request: Request, caller: Caller, control: Parts) -> Response:
    """Where so many machines of this size would go now, spread over the regions. Nothing is reserved."""
    body = await wire.read(request, shapes.PlacementBody)
    organization = caller.organization(body.org_slug)
    config = Config.parse({"image": "placement", "guest": body.compute})
    offers = await control.market.offers(
        app_id="", org_slug=organization.slug, config=config, region=body.region or "[local],any"
    )
    regions = list(dict.fromkeys(bid.region for bid in offers.bids))
    if not regions:
        raise nobody(offers.refusals)
    count = body.count or len(regions)
    shares = [count // len(regions) + (place < count % len(regions)) for place in range(len(regions))]
    found = [
        {"Region": region, "Count": share, "Concurrency": 1}
        for region, share in zip(regions, shares, strict=True)
        if share
    ]
    return wire.reply({"Regions": found})
