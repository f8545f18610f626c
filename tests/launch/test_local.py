"""Builds by the builders of this computer: buildah itself, and stand-ins for those that are not here."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from caddisfly.launch.build import context, ignore, local
from caddisfly.launch.build.display import Plain
from caddisfly.launch.build.local import BuildFailed, LocalOrder
from caddisfly.model.errors import FailedPrecondition
from tests.conftest import eventually

needs_buildah = pytest.mark.skipif(
    shutil.which("buildah") is None or os.geteuid() != 0, reason="needs buildah, and root for it"
)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on the PATH, and nothing else on it."""
    directory = tmp_path / "programs"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def program(directory: Path, name: str, code: str) -> Path:
    """A stand-in that notes its arguments. `code` is Python."""
    notes = directory / f"{name}.json"
    path = directory / name
    path.write_text(
        f"#!{sys.executable}\nimport json, os, pathlib, sys, time\nargs = sys.argv[1:]\n"
        f"note = pathlib.Path({str(notes)!r})\n"
        "note.write_text(json.dumps([*(json.loads(note.read_text()) if note.exists() else []), args]))\n"
        + textwrap.dedent(code)
    )
    path.chmod(0o755)
    return notes


def calls(notes: Path) -> list[list[str]]:
    found: list[list[str]] = json.loads(notes.read_text())
    return found


@pytest.fixture
def folder(tmp_path: Path) -> context.Folder:
    root = tmp_path / "source"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "kept.py").write_text("print()")
    (root / "drop.log").write_text("x")
    (root / "link").symlink_to("sub/kept.py")
    (root / ".dockerignore").write_text("*.log\n!sub\nsub/kept.py\n!**/kept.py\n")
    return context.walk(root, ignore.rules(["*.log"]))


def order(dockerfile: str = "FROM scratch\nCOPY . /app/\n", **more: Any) -> LocalOrder:
    return LocalOrder(image="registry.test/hello:one", dockerfile=dockerfile.encode(), **more)


def test_the_first_builder_that_works_is_taken(programs: Path) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        local.find_builder()
    assert caught.value.why == "docker: not installed\npodman: not installed\nbuildah: not installed"
    program(programs, "buildah", "")
    assert local.find_builder() == "buildah"
    program(programs, "podman", "sys.exit('cannot clone: no')")
    assert local.find_builder() == "buildah"
    program(programs, "docker", "")
    assert local.find_builder() == "docker"
    program(programs, "docker", "sys.exit('Cannot connect to the Docker daemon') if args[0] == 'version' else None")
    program(programs, "buildah", "sys.exit(3)")
    with pytest.raises(FailedPrecondition) as caught:
        local.find_builder()
    assert caught.value.why.splitlines() == [
        "docker: Cannot connect to the Docker daemon",
        "podman: cannot clone: no",
        "buildah: exit code 3",
    ]


SEEN = """
place = pathlib.Path(args[-1] if args[-1].startswith('/') else args[args.index('--path') + 1])
print(json.dumps(sorted(str(path.relative_to(place)) for path in place.rglob('*'))))
"""


def test_docker_gets_what_the_rules_leave_and_no_secret_in_words(programs: Path, folder: context.Folder) -> None:
    code = SEEN + "print(open(args[args.index('--secret') + 1].partition('src=')[2]).read()[::-1])"
    notes = program(programs, "docker", code)
    out = io.StringIO()
    wanted = order(target="prod", args={"A": "1"}, labels={"l": "2"}, secrets={"key": "s3cret"}, no_cache=True)
    local.build(folder, wanted, Plain(out), builder="docker")
    (words,) = calls(notes)
    text = " ".join(words)
    assert "--platform linux/amd64" in text
    assert "--tag registry.test/hello:one --load --target prod --no-cache --build-arg A=1 --label l=2 --secret" in text
    assert "s3cret" not in text
    lines = out.getvalue().splitlines()
    assert json.loads(lines[0]) == [".dockerignore", "link", "sub", "sub/kept.py"]
    assert lines[1] == "terc3s"
    assert not Path(words[-1]).exists()


def test_a_builder_that_fails_is_told_with_its_last_lines(programs: Path, folder: context.Folder) -> None:
    program(programs, "docker", "print('#5 [2/3] RUN make'); print('boom'); sys.exit(17)")
    with pytest.raises(BuildFailed) as caught:
        local.build(folder, order(), Plain(io.StringIO()), builder="docker")
    assert caught.value.what == "docker cannot build this"
    assert caught.value.why == "#5 [2/3] RUN make\nboom\ndocker ended with exit code 17"


@needs_buildah
def test_buildah_builds_and_pushes(folder: context.Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = tmp_path / "storage.conf"
    storage.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/graph"\nrunroot = "{tmp_path}/run"\n')
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(storage))
    monkeypatch.setenv("BUILDAH_ISOLATION", "chroot")
    out = io.StringIO()
    local.build(folder, order(labels={"a": "b"}), Plain(out), builder="buildah")
    assert "[1/3] FROM scratch" in out.getvalue()
    assert "[2/3] COPY . /app/" in out.getvalue()
    target = tmp_path / "pushed"
    subprocess.run(["buildah", "push", "-q", "registry.test/hello:one", f"dir:{target}"], check=True, timeout=60)
    manifest = json.loads((target / "manifest.json").read_text())
    config = json.loads((target / manifest["config"]["digest"].partition(":")[2]).read_text())
    assert config["config"]["Labels"]["a"] == "b"
    layer = target / manifest["layers"][0]["digest"].partition(":")[2]
    listed = subprocess.run(["tar", "-tf", layer], check=True, capture_output=True, text=True, timeout=60).stdout
    assert {name for name in listed.split() if not name.endswith("/")} == {
        "app/.dockerignore",
        "app/link",
        "app/sub/kept.py",
    }
    with pytest.raises(BuildFailed) as caught:
        local.build(folder, order("FROM scratch\nCOPY . /\nRUN make\n"), Plain(out), builder="buildah")
    assert caught.value.what == "RUN make: buildah cannot build this"
    assert "failed with exit code" in out.getvalue()


def test_steps_of_podman_and_buildah_are_understood() -> None:
    reader = local._Reader()
    text = "[1/2] STEP 1/2: FROM x AS a\n--> Using cache abc\n[1/2] STEP 2/2: RUN y\nhello\n[2/2] STEP 1/1: FROM z"
    records = [record for line in text.split("\n") for record in reader.records(line)] + list(reader.end(0))
    steps = [record["step"] for record in records if record["kind"] == "step"]
    assert [(step["event"], step["stage"], step["text"], step.get("cached")) for step in steps] == [
        ("started", "1/2", "FROM x AS a", None),
        ("ended", "1/2", "FROM x AS a", True),
        ("started", "1/2", "RUN y", None),
        ("ended", "1/2", "RUN y", False),
        ("started", "2/2", "FROM z", None),
        ("ended", "2/2", "FROM z", False),
    ]


def test_a_push_keeps_the_password_in_a_file(programs: Path) -> None:
    podman = program(programs, "podman", "print(open(args[args.index('--authfile') + 1]).read())")
    docker = program(programs, "docker", "")
    out = io.StringIO()
    for builder in ("podman", "docker"):
        url = "http://127.0.0.1:5080"
        local.push("registry.test/hello:one", Plain(out), builder=builder, url=url, user="x", password="tok")
    (words,) = calls(podman)
    assert words[-2:] == ["registry.test/hello:one", "docker://127.0.0.1:5080/hello:one"]
    assert "--tls-verify=false" in words
    assert "tok" not in words
    assert '"127.0.0.1:5080": {"auth": "eDp0b2s="}' in out.getvalue()
    tag, push = calls(docker)
    assert tag == ["tag", "registry.test/hello:one", "127.0.0.1:5080/hello:one"]
    assert (push[0], push[2:]) == ("--config", ["push", "127.0.0.1:5080/hello:one"])
    assert not Path(push[1]).exists()


def test_buildpacks_need_pack(programs: Path, folder: context.Folder) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        local.build_with_packs(folder, order(), Plain(io.StringIO()), builder="b", buildpacks=())
    assert "https://buildpacks.io/docs/install-pack" in caught.value.next
    notes = program(programs, "pack", SEEN + "print(open(args[args.index('--env-file') + 1]).read())")
    out = io.StringIO()
    wanted = order(args={"BP_X": "secret value"})
    local.build_with_packs(folder, wanted, Plain(out), builder="heroku/builder:24", buildpacks=["a", "b"])
    text = " ".join(calls(notes)[0])
    assert text.startswith("build registry.test/hello:one --path ")
    assert "--builder heroku/builder:24 --buildpack a --buildpack b --env-file" in text
    assert "BP_X=secret value" in out.getvalue()


def alive(pid: str) -> bool:
    """Whether it runs. One that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_ctrl_c_ends_the_builder_and_what_it_started(programs: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = f"""
    child = os.fork()
    if child:
        pathlib.Path({str(pids)!r}).write_text(f"{{os.getpid()}} {{child}}")
    time.sleep(60)
    """
    program(programs, "docker", code)
    (tmp_path / "source").mkdir()
    script = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from caddisfly.launch.build import context, ignore, local
        from caddisfly.launch.build.display import Plain
        folder = context.walk(Path({str(tmp_path / "source")!r}), ignore.rules([]))
        order = local.LocalOrder(image="a/b:c", dockerfile=b"FROM x")
        local.build(folder, order, Plain(sys.stderr), builder="docker")
        """
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stderr=asyncio.subprocess.PIPE)
    started = (await eventually(lambda: pids.exists() and pids.read_text())).split()
    assert all(alive(pid) for pid in started)
    process.send_signal(signal.SIGINT)
    _, said = await asyncio.wait_for(process.communicate(), 20)
    assert b"KeyboardInterrupt" in said
    await eventually(lambda: not any(alive(pid) for pid in started))
