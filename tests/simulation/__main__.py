"""Play seeds: `python -m tests.simulation --seeds 0:2000`. One seed that failed: `--seeds 17:18 --trace`. Which seeds
find the planted bugs: `--seeds 0:100 --find`.

Python's hashing must be fixed for a seed to be one schedule, so this starts itself again with it fixed.
"""

from __future__ import annotations

import argparse
import os
import sys

from tests.simulation import planted, runner


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0:2000", help="first:last, the last not played")
    parser.add_argument("--operations", type=int, default=200)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--bug", default="", help="plant this bug first")
    parser.add_argument("--find", action="store_true", help="plant each bug in turn until a seed finds it")
    parser.add_argument("--digests", action="store_true", help="print one number for each schedule")
    parser.add_argument("--trace", action="store_true", help="print the trace of a run that held, too")
    wanted = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    first, _, last = wanted.seeds.partition(":")
    seeds = range(int(first), int(last))
    if wanted.find:
        return runner.find(planted.BUGS, seeds, operations=wanted.operations, processes=wanted.processes)
    return runner.play(
        seeds,
        operations=wanted.operations,
        processes=wanted.processes,
        bug=wanted.bug,
        trace=wanted.trace,
        digests=wanted.digests,
    )


if __name__ == "__main__":
    sys.exit(main())
