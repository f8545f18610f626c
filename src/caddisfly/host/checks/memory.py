"""What checks last found, kept for an agent that is killed: its end says nothing about the Machines.

A file for each run, in the directory that a reboot empties. It is written when something is told, not synced, and not
missed: without it a run's checks begin anew, as those of a new run do.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection
from pathlib import Path

from caddisfly.model.check import Check

log = logging.getLogger(__name__)


class Memory:
    """Results by run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def recall(self, run_id: str) -> tuple[Check, ...]:
        """What is known of a run; nothing when there is nothing that can be read."""
        try:
            records = json.loads((self._directory / run_id).read_bytes())
            return tuple(Check.from_record(record) for record in records)
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, TypeError) as error:
            log.warning("checks.not_recalled", extra={"run": run_id, "reason": repr(error)})
            return ()

    def keep(self, run_id: str, checks: tuple[Check, ...]) -> None:
        path = self._directory / run_id
        fresh = path.with_suffix(".new")
        try:
            self._directory.mkdir(exist_ok=True)
            fresh.write_text(json.dumps([check.to_record() for check in checks]))
            os.replace(fresh, path)
        except OSError as error:
            log.warning("checks.not_kept", extra={"run": run_id, "reason": str(error)})

    def forget(self, run_id: str) -> None:
        for name in (run_id, f"{run_id}.new"):
            (self._directory / name).unlink(missing_ok=True)

    def sweep(self, runs: Collection[str]) -> None:
        """Forget everything but these runs."""
        if self._directory.is_dir():
            for entry in self._directory.iterdir():
                if entry.name not in runs:
                    entry.unlink()
