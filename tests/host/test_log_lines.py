"""How lines of conmon's file become lines of a log."""

from __future__ import annotations

from pathlib import Path

from caddisfly.host.logs import LogReader
from caddisfly.host.operations.work import log_of
from caddisfly.host.settings import HostSettings
from tests.journal.test_journal import a_machine

FILE = b"""\
2026-01-02T03:04:05.000000001+00:00 stdout P job 1 done
2026-01-02T03:04:05.000000002+00:00 stderr F\x20
2026-01-02T03:04:05.000000003+00:00 stdout F\x20
2026-01-02T03:04:05.000000004+00:00 stdout F\x20
2026-01-02T03:04:05.000000005+00:00 stdout P Applying...
2026-01-02T03:04:05.000000006+00:00 stdout F  OK
"""


async def test_a_line_whose_end_comes_late_is_one_and_an_empty_line_stays(tmp_path: Path) -> None:
    settings = HostSettings(data_dir=tmp_path, run_dir=tmp_path)
    machine = a_machine()
    file = log_of(settings, machine.id)
    file.parent.mkdir(parents=True)
    file.write_bytes(FILE)
    lines = await LogReader(settings).read(machine, since_ns=0, limit=100)
    assert [(line["stream"], line["message"]) for line in lines] == [
        ("stdout", "job 1 done"),
        ("stderr", ""),
        ("stdout", ""),
        ("stdout", "Applying..."),
        ("stdout", " OK"),
    ]
