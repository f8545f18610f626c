"""Dockerfiles for builders that are older than they are: same image, other words."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from caddisfly.launch.build import dockerfile, plainer


def rewritten(text: str) -> list[str]:
    content, warnings = plainer.rewrite(dockerfile.read(text.encode()))
    assert warnings == ()
    return content.decode().split("\n")


def test_what_is_old_enough_stays_byte_for_byte() -> None:
    text = "# syntax=docker/dockerfile:1\r\nFROM x\r\nRUN a \\\r\n  b\r\nCOPY --from=x  a   b\r\n"
    assert plainer.rewrite(dockerfile.read(text.encode()))[0] == text.encode()


def test_a_heredoc_becomes_text_for_the_shell_and_lines_stay_where_they_are() -> None:
    lines = rewritten('FROM x\nRUN --mount=type=cache,target=/c <<EOF\necho "$A"\n\tb\nEOF\nCMD c\n')
    assert lines == [
        "FROM x",
        'RUN --mount=type=cache,target=/c ["/bin/sh", "-c", "echo \\"$A\\"\\n\\tb\\n"]',
        "",
        "",
        "",
        "CMD c",
        "",
    ]


def test_tabs_that_do_not_count_and_heredocs_beside_words() -> None:
    assert rewritten("FROM x\nRUN <<-EOF\n\ta\n\tEOF")[1] == 'RUN ["/bin/sh", "-c", "a\\n"]'
    assert rewritten("FROM x\nRUN cat <<'A' <<B > f\n1\nA\n2\nB")[1] == (
        'RUN ["/bin/sh", "-c", "cat <<\'A\' <<B > f\\n1\\nA\\n2\\nB"]'
    )


def test_the_shell_is_that_of_the_stage() -> None:
    lines = rewritten(
        'FROM x AS a\nSHELL ["/bin/bash", "-ec"]\nRUN <<E\n1\nE\nFROM y\nRUN <<E\n2\nE\nFROM a\nRUN <<E\n3\nE'
    )
    assert [line for line in lines if line.startswith("RUN")] == [
        'RUN ["/bin/bash", "-ec", "1\\n"]',
        'RUN ["/bin/sh", "-c", "2\\n"]',
        'RUN ["/bin/bash", "-ec", "3\\n"]',
    ]


def test_a_hint_is_left_out() -> None:
    lines = rewritten("FROM x\nCOPY --link --chown=1:2 --from=x a \\\n  b\nCMD c")
    assert [line.split() for line in lines[1:]] == [["COPY", "--chown=1:2", "--from=x", "a", "b"], [], ["CMD", "c"]]


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("COPY <<E /x\na\nE", "Dockerfile:2: COPY with a heredoc needs buildah 1.33 or newer on the host"),
        ("RUN <<E\n#!/usr/bin/python3\nE", "Dockerfile:2: RUN with a heredoc needs buildah 1.33 or newer on the host"),
        ("COPY --parents a b", "Dockerfile:2: COPY --parents needs buildah 1.33 or newer on the host"),
    ],
)
def test_what_has_no_other_words_is_sent_with_a_warning(text: str, warning: str) -> None:
    whole = f"FROM x\n{text}\n"
    assert plainer.rewrite(dockerfile.read(whole.encode())) == (whole.encode(), (warning,))


@pytest.mark.skipif(shutil.which("buildah") is None or os.geteuid() != 0, reason="needs buildah, and root for it")
def test_buildah_runs_it(tmp_path: Path) -> None:
    text = (
        "FROM scratch\nCOPY --link busybox /bin/sh\nCOPY busybox /bin/cat\nENV NAME=world\n"
        "RUN <<EOF\nset -e\necho \"hello $NAME\"\nEOF\n"
        "RUN cat <<'ONE' && cat <<TWO\nliteral $NAME\nONE\nexpanded $NAME\nTWO\n"
    )  # fmt: skip
    shutil.copy("/bin/busybox", tmp_path / "busybox")
    (tmp_path / "Dockerfile").write_bytes(plainer.rewrite(dockerfile.read(text.encode()))[0])
    where = ["--root", str(tmp_path / "storage"), "--runroot", str(tmp_path / "run"), "--storage-driver", "vfs"]
    done = subprocess.run(
        ["buildah", *where, "build", "--isolation", "chroot", "--ignorefile", "/dev/null", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for line in ("hello world", "literal $NAME", "expanded world"):
        assert line in done.stdout.splitlines()
