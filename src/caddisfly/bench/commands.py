"""`caddis bench`: measure this platform beside what one would use instead, in one run, and hold it to its promises."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

PARTS = ("create", "wake", "edge", "memory")


def register(program: typer.Typer) -> None:
    """Add `bench` to the program."""

    @program.command()
    def bench(
        parts: Annotated[list[str] | None, typer.Argument(help=f"What to measure: {', '.join(PARTS)}. All.")] = None,
        rounds: Annotated[int, typer.Option(help="How often each thing is done.", min=3)] = 30,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Measure, beside what one would use instead. Ends with 1 when a promise is not kept."""
        wanted = tuple(parts or PARTS)
        unknown = [part for part in wanted if part not in PARTS]
        if unknown:
            raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(PARTS)}")
        results = asyncio.run(_measure(wanted, rounds))
        bars = judge(results)
        if as_json:
            typer.echo(json.dumps({"computer": results.pop("computer"), "results": results, "bars": bars}, indent=2))
        else:
            _show(results, bars)
        if not all(bar["kept"] for bar in bars):
            raise typer.Exit(1)


async def _measure(parts: tuple[str, ...], rounds: int) -> dict[str, Any]:
    from caddisfly.bench import edge, machines, memory
    from caddisfly.bench.platform import Platform, platform

    results: dict[str, Any] = {"computer": computer()}
    if "edge" in parts:
        results["edge"] = await edge.measure(15.0)
    measures: dict[str, Callable[[Platform], Awaitable[dict[str, Any]]]] = {
        "memory": memory.idle,
        "create": lambda on: machines.create(on, rounds=rounds),
        "wake": lambda on: machines.wake(on, rounds=rounds),
    }
    if any(part in measures for part in parts):
        async with platform() as running:
            for part, measure in measures.items():
                if part in parts:
                    results[part] = await measure(running)
    return results


def computer() -> dict[str, Any]:
    """What was measured on. Numbers of one computer mean little without it."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(memory_gb, 1),
        "kernel": os.uname().release,
        "load_before": os.getloadavg()[0],
    }


def judge(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The promises of SPECIFICATION.md that these results speak of, each with what was measured."""
    bars: list[dict[str, Any]] = []

    def bar(name: str, measured: float, limit: float) -> None:
        bars.append({"bar": name, "measured": measured, "limit": limit, "kept": measured <= limit})

    if "create" in results:
        ratios = results["create"]["ratios"]
        bar("create to started / runc run", ratios["to runc run … true"], 2.0)
        if "to podman run -d, no network" in ratios:
            bar("create to started / podman run -d (no network)", ratios["to podman run -d, no network"], 0.5)
        if "to podman run -d" in ratios:
            bar("create to started / podman run -d", ratios["to podman run -d"], 0.5)
    if "wake" in results:
        bar("wake above runc run, ms", results["wake"]["above_raw_ms"], 100.0)
        bar("failures of 100 clients at a sleeping app", results["wake"]["crowd"]["failures"], 0)
        bar("starts for 100 clients at a sleeping app", results["wake"]["crowd"]["starts"], 1)
    if "edge" in results:
        ratios = results["edge"]["ratios"]
        bar("edge CPU per request / nginx", ratios["cpu_per_request_vs_nginx"], 1.5)
        for peer in ("caddy", "traefik"):
            if rate := ratios.get(f"rate_vs_{peer}"):
                bar(f"{peer} requests per second / edge", round(1 / rate, 2), 1.0)
    if "memory" in results:
        bar("idle platform, MiB PSS", results["memory"]["platform_mb"], 250.0)
    return bars


def _show(results: dict[str, Any], bars: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    machine = results["computer"]
    console.print(
        f"{machine['cores']} cores, {machine['memory_gb']} GiB, Linux {machine['kernel']}, "
        f"load before {machine['load_before']:.2f}"
    )
    if machine["load_before"] > 0.7:
        console.print("[yellow]The computer was busy before this began: take the ratios with care.[/yellow]")
    for part in ("create", "wake"):
        if part in results:
            table = Table("ms", "n", "p50", "p99", title=part)
            for name, series in results[part]["series"].items():
                table.add_row(name, str(series["n"]), f"{series['p50_ms']:.1f}", f"{series['p99_ms']:.1f}")
            console.print(table)
            for name, why in results[part].get("not_measured", {}).items():
                console.print(f"not measured: {name}: {why}")
    for part in ("edge", "memory"):
        if part in results:
            console.print(part, results[part])
    table = Table("promise", "measured", "limit", "", title="promises")
    for row in bars:
        table.add_row(
            row["bar"], f"{row['measured']:g}", f"{row['limit']:g}", "kept" if row["kept"] else "[red]broken[/red]"
        )
    console.print(table)
