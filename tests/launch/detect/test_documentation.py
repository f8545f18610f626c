"""The page has a row for every framework, with its port."""

from __future__ import annotations

import re
from pathlib import Path

from caddisfly.launch.detect.catalog import CATALOG
from tests.launch.detect.projects import EVERY

PAGE = Path(__file__).parents[3] / "docs" / "detect.md"


def test_every_framework_is_on_the_page_with_its_port() -> None:
    rows = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows |= dict.fromkeys(re.findall(r"`([\w]+)`", cells[0]), cells[-1])
    assert set(rows) == {one.name for one in CATALOG}
    for name, (_, port) in EVERY.items():
        assert str(port) in rows[name] or name in ("node", "bun"), name
