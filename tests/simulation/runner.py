"""Plays many seeds, side by side, and tells how it went."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.simulation import planted
from tests.simulation.world import Violation, World

_SHARE = 25
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """One seed. `digest` is the same whenever the schedule was."""

    seed: int
    digest: int
    report: str = ""


def play_one(seed: int, *, operations: int, directory: Path, trace: bool = False) -> Outcome:
    world = World(seed, operations=operations, directory=directory)
    report = ""
    try:
        world.run()
    except Violation as violation:
        report = str(violation)
    else:
        if trace:
            print(world.report())  # noqa: T201 - asked for on the command line
    digest = hash(tuple((at, what, id) for at, what, id, _ in world.trace))
    return Outcome(seed, digest, report)


def play_some(seeds: Iterable[int], *, operations: int, bug: str = "", trace: bool = False) -> Iterable[Outcome]:
    """Play seeds in this process, with a bug planted if named."""
    logging.disable(logging.CRITICAL)
    muted, sys.unraisablehook = sys.unraisablehook, lambda _: None  # coroutines of agents that were killed
    warnings.simplefilter("ignore", RuntimeWarning)  # likewise: they were never awaited to their end
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        with tempfile.TemporaryDirectory(prefix="caddis-simulation-") as directory, planted.bug(bug):
            for seed in seeds:
                yield play_one(seed, operations=operations, directory=Path(directory), trace=trace)
                gc.collect()  # while the processor still has it at hand: later it takes twice as long
    finally:
        gc.collect()
        gc.enable()
        sys.unraisablehook = muted
        logging.disable(logging.NOTSET)


def _work(share: tuple[list[int], int, str, bool]) -> list[Outcome]:
    seeds, operations, bug, trace = share
    return list(play_some(seeds, operations=operations, bug=bug, trace=trace))


def find(bugs: Iterable[str], seeds: range, *, operations: int, processes: int) -> int:
    """Plant one bug after the other; print which seed was the first to find it. Returns 1 when one was not found."""
    pool = multiprocessing.Pool(processes, maxtasksperchild=1)
    missed = 0
    for bug, found in pool.imap(_find, [(bug, seeds, operations) for bug in bugs], chunksize=1):
        missed += found is None
        said = f"{bug}: seed {found.seed}: {found.report.splitlines()[1]}" if found else f"{bug}: not found"
        print(said, flush=True)  # noqa: T201 - what was asked for
    pool.close()
    pool.join()
    return 1 if missed else 0


def _find(wanted: tuple[str, range, int]) -> tuple[str, Outcome | None]:
    bug, seeds, operations = wanted
    outcomes = play_some(seeds, operations=operations, bug=bug)
    return bug, next((outcome for outcome in outcomes if outcome.report), None)


def play(
    seeds: range, *, operations: int, processes: int, bug: str = "", trace: bool = False, digests: bool = False
) -> int:
    """Play all; print what failed. Returns 1 when something did, or when nothing was played."""
    began = time.monotonic()
    shares = [(list(seeds[at : at + _SHARE]), operations, bug, trace) for at in range(0, len(seeds), _SHARE)]
    outcomes: list[Outcome] = []
    pool = multiprocessing.Pool(max(1, min(processes, len(shares))))
    for found in pool.imap_unordered(_work, shares):
        outcomes += found
    pool.close()
    pool.join()
    outcomes.sort(key=lambda outcome: outcome.seed)
    failed = [outcome for outcome in outcomes if outcome.report]
    lines = [f"digest {outcome.seed} {outcome.digest}" for outcome in outcomes] if digests else []
    lines += [f"{outcome.report}\n" for outcome in failed[:_SHOWN]]
    took_s, children = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = children.ru_utime + children.ru_stime
    lines.append(
        f"{len(outcomes)} seeds x {operations} operations in {took_s:.0f} s ({cpu_s:.0f} s of CPU), "
        f"{len(failed)} failed" + (f": {[outcome.seed for outcome in failed[:20]]}" if failed else "")
    )
    print("\n".join(lines))  # noqa: T201 - what was asked for
    return 1 if failed or not outcomes else 0
