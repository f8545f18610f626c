"""Files are written on request, whole, and only over what the difference was shown for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from caddisfly.launch.detect import Change, apply
from caddisfly.model.errors import Aborted, FailedPrecondition


def test_a_difference_is_one_that_patch_understands(tmp_path: Path) -> None:
    change = Change("Dockerfile", "FROM a\nRUN b", "FROM a\nRUN c\n")
    (tmp_path / "Dockerfile").write_text("FROM a\nRUN b")
    done = subprocess.run(["git", "apply", "-"], input=change.diff(), text=True, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "Dockerfile").read_text() == change.after


def test_a_new_file_is_written_with_its_directories_and_mode(tmp_path: Path) -> None:
    change = Change("rel/overlays/bin/server", None, "#!/bin/sh\n", executable=True)
    assert change.diff().startswith("--- /dev/null\n+++ b/rel/overlays/bin/server\n")
    apply(tmp_path, [change])
    assert (tmp_path / change.path).read_text() == "#!/bin/sh\n"
    assert (tmp_path / change.path).stat().st_mode & 0o777 == 0o755
    assert [path.name for path in (tmp_path / change.path).parent.iterdir()] == ["server"]


def test_what_changed_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("somebody was here\n")
    with pytest.raises(Aborted, match="b changed since"):
        apply(tmp_path, [Change("a", None, "new\n"), Change("b", "old\n", "new\n")])
    assert not (tmp_path / "a").exists(), "all or nothing"
    assert (tmp_path / "b").read_text() == "somebody was here\n"


def test_a_file_that_came_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM mine\n")
    with pytest.raises(Aborted):
        apply(tmp_path, [Change("Dockerfile", None, "FROM yours\n")])


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("old\n")
    root = tmp_path / "app"
    root.mkdir()
    (root / "Dockerfile").symlink_to("../outside")
    with pytest.raises(FailedPrecondition, match="is a link"):
        apply(root, [Change("Dockerfile", "old\n", "new\n")])
    assert (tmp_path / "outside").read_text() == "old\n"
