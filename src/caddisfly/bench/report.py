"""What was measured, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caddisfly.bench.bars import Bar
from caddisfly.cli import show


def show_all(computer: dict[str, Any], results: dict[str, Any], bars: Sequence[Bar]) -> None:
    """The computer, a table for each part, and the promises last."""
    show.line(
        f"{computer['cores']} cores, {computer['memory_gb']} GiB, Linux {computer['kernel']}, "
        f"load before {computer['load_before']:.2f}"
    )
    for part, found in results.items():
        show.line(f"\n{part}")
        if part == "edge":
            _show_edge(found)
        else:
            _show_series(found)
    show.line("\npromises")
    show.table(
        ("", "measured", "limit", "goal", ""),
        [
            (bar.name, f"{bar.measured:g}", f"{bar.limit:g}", _goal(bar), "kept" if bar.kept else "BROKEN")
            for bar in bars
        ],
    )


def _show_series(found: dict[str, Any]) -> None:
    series, to = found.get("series", {}), found.get("ratios", {})
    if series:
        rows = [
            (name, one["n"], one["p50_ms"], one["p99_ms"], one["min_ms"], to.get(name, ""))
            for name, one in series.items()
        ]
        show.table(("ms", "n", "p50", "p99", "min", "ours / it" if to else ""), rows)
    for name, value in found.items():
        if name in ("series", "ratios"):
            continue
        if isinstance(value, dict):
            for key, inner in value.items():
                show.line(f"{name.replace('_', ' ')}: {key} {inner}")
        else:
            show.line(f"{name.replace('_', ' ')}: {value}")


def _show_edge(found: dict[str, Any]) -> None:
    show.table(
        ("proxy", "requests/s", "CPU ms per 1000", "p99", "failed"),
        [
            (name, one["requests_per_s"], one["cpu_ms_per_1000"], one["p99"], one["failed"] or "none")
            for name, one in found["results"].items()
        ],
    )
    for name, value in found["ratios"].items():
        show.line(f"{name.replace('_', ' ')}: {value}")


def _goal(bar: Bar) -> str:
    if bar.goal is None:
        return ""
    return f"{bar.goal:g}" + (" reached" if bar.measured <= bar.goal else "")
