"""`caddis bench`: measure this platform beside what one would use instead, in one run, and hold it to its promises."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from caddisfly.cli import show

PARTS = ("create", "wake", "edge", "memory", "push", "api", "builds", "deploys", "many", "dev", "images", "microvms")
_EDGE_S = 15.0


def register(program: typer.Typer) -> None:
    """Add `bench` to the program."""

    @program.command()
    def bench(
        parts: Annotated[list[str] | None, typer.Argument(help=f"What to measure: {', '.join(PARTS)}. All.")] = None,
        rounds: Annotated[int, typer.Option(help="How often each thing is done.", min=3)] = 30,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Measure, beside what one would use instead. Ends with 1 when a promise is not kept."""
        from caddisfly.bench import report
        from caddisfly.bench.bars import judge

        wanted = tuple(dict.fromkeys(parts or PARTS))
        unknown = [part for part in wanted if part not in PARTS]
        if unknown:
            raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(PARTS)}")
        try:
            computer, results = asyncio.run(_measure(wanted, rounds))
        except asyncio.CancelledError as stopped:  # by SIGTERM, after tidying up
            raise typer.Exit(128 + signal.SIGTERM) from stopped
        bars = judge(results)
        if as_json:
            wire = [bar.to_wire() for bar in bars]
            show.result({"computer": computer, "results": results, "bars": wire})
        else:
            report.show_all(computer, results, bars)
        if not all(bar.kept for bar in bars):
            raise typer.Exit(1)


async def _measure(parts: tuple[str, ...], rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    from caddisfly.bench import (
        api,
        builds,
        computer,
        deploys,
        dev,
        edge,
        images,
        machines,
        many,
        memory,
        microvms,
        push,
    )
    from caddisfly.bench.platform import Platform, platform

    current = asyncio.current_task()
    assert current is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
    # In this order: memory of a platform that has done nothing yet, and last what leaves a thousand Machines in it.
    measures: dict[str, Callable[[Platform], Awaitable[dict[str, Any]]]] = {
        "memory": memory.measure,
        "push": lambda on: push.measure(on, rounds=rounds),
        "create": lambda on: machines.create(on, rounds=rounds),
        "wake": lambda on: machines.wake(on, rounds=rounds),
        "builds": lambda on: builds.measure(on, rounds=min(rounds, 15)),
        "deploys": lambda on: deploys.measure(on, rounds=min(rounds, 5)),
        "many": lambda on: many.measure(on, rounds=rounds),
        "api": lambda on: api.measure(on, rounds=rounds),
    }
    facts, results = computer.facts(), dict[str, Any]()
    if facts["load_before"] > computer.BUSY:
        show.note(f"load is {facts['load_before']:.2f}: others use this computer, take the ratios with care")
    on_platform = [part for part in measures if part in parts]
    if on_platform:
        async with platform() as running:
            for part in on_platform:
                show.note(f"measuring {part}")
                results[part] = await measures[part](running)
    if "edge" in parts:
        show.note("measuring edge")
        results["edge"] = await edge.measure(_EDGE_S)
    if "dev" in parts:
        show.note("measuring dev")
        results["dev"] = await dev.measure(rounds=rounds)
    if "images" in parts:
        show.note("measuring images")
        results["images"] = await images.measure(rounds=rounds)
    if "microvms" in parts:
        show.note("measuring microvms")
        results["microvms"] = await microvms.measure(rounds=min(rounds, 10))
    return facts, {part: results[part] for part in PARTS if part in results}
