"""`caddis build`, against a server of the API and a registry that do what a test says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caddisfly.launch.build import remote
from caddisfly.model.context import Context
from tests.cli.conftest import Outcome
from tests.client.conftest import Api, Request
from tests.conftest import eventually
from tests.launch.registry import PushRegistry, push_registry

__all__ = ["push_registry"]

Caddis = Callable[..., Outcome]
BUILDS = "/v1/apps/hello/builds"
LOGS = f"{BUILDS}/b1/logs"


def build(state: str, **more: Any) -> dict[str, Any]:
    return {"id": "b1", "state": state, "image": "", "digest": "", "failure": None, **more}


DONE = build("done", image="registry.localhost/hello:v1", digest="sha256:" + "a" * 64)


def step(event: str, number: int, text: str, **more: Any) -> dict[str, Any]:
    return {"kind": "step", "step": {"event": event, "number": number, "of": 2, "stage": "", "text": text, **more}}


def output(message: str) -> dict[str, Any]:
    return {"kind": "output", "message": message}


def page(offset: int, *lines: dict[str, Any], ended: bool = False) -> tuple[int, dict[str, Any]]:
    return 200, {"lines": list(lines), "next_offset": offset, "state": "running", "ended": ended}


@pytest.fixture
def project(tmp_path: Path, caddis: Caddis) -> Path:
    """Where the commands run."""
    (tmp_path / "Dockerfile").write_text("FROM alpine\nCOPY app.py /app/\n")
    (tmp_path / "app.py").write_text("print()")
    (tmp_path / "fly.toml").write_text('app = "hello"\n')
    return tmp_path


@pytest.fixture
def platform(api: Api, push_registry: PushRegistry, monkeypatch: pytest.MonkeyPatch) -> Api:
    """One that builds well, unless a test says otherwise."""
    monkeypatch.setattr(remote, "_PAUSE_S", 0.001)
    push_registry.password = "secret"
    api.on("GET", "/v1/platform/registry", (200, {"host": "registry.localhost", "url": push_registry.url}))
    api.on("POST", BUILDS, (201, build("queued")))
    first = page(120, step("started", 1, "FROM alpine"), step("ended", 1, "FROM alpine", cached=True))
    api.on("GET", LOGS, first, page(120), page(120, ended=True))
    api.on("GET", f"{BUILDS}/b1", (200, DONE))
    return api


def sent(api: Api) -> Any:
    return next(request.body for request in api.seen if (request.method, request.path) == ("POST", BUILDS))


def test_a_folder_becomes_an_image(platform: Api, push_registry: PushRegistry, project: Path, caddis: Caddis) -> None:
    outcome = caddis("build", "--tag", "v1")
    assert outcome.code == 0, outcome.err
    assert outcome.out == f"image   registry.localhost/hello:v1\ndigest  {DONE['digest']}\n"
    lines = outcome.err.splitlines()
    assert lines[0] == "Dockerfile: Dockerfile"
    assert f"Context: {project}, 2 files, 37 B" in lines
    assert "There is no .dockerignore: .git, .env*, node_modules, .venv, fly.toml are left out" in lines
    assert "[1/2] FROM alpine" in lines
    assert any(re.fullmatch(r"Sent: 1 of 1 packs, \d+ B", line) for line in lines)
    body = sent(platform)
    assert (body["tag"], body["dockerfile"]) == ("v1", "Dockerfile")
    whole = Context.from_bytes(push_registry.manifests[body["context"]])
    assert push_registry.blobs[whole.dockerfile.digest] == (project / "Dockerfile").read_bytes()


def test_all_flags_arrive(platform: Api, project: Path, caddis: Caddis, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "web").mkdir()
    (project / "web" / "app.py").touch()
    (project / "other.Dockerfile").write_text("FROM alpine AS prod\nARG A\nARG B\nCOPY app.py /\nFROM prod AS dev\n")
    monkeypatch.setenv("FROM_HERE", "of the environment")
    words = "--dockerfile other.Dockerfile --build-target prod --build-arg A=1 --build-arg B=x=y --label l=2 --no-cache"
    secrets = ["--build-secret", "key=s3cret", "--build-secret", "FROM_HERE"]
    outcome = caddis("build", "web", "-a", "hello", "--json", *words.split(), *secrets)
    assert outcome.code == 0, outcome.err
    assert outcome.json == {"image": DONE["image"], "digest": DONE["digest"], "build": DONE}
    body = sent(platform)
    assert body.pop("context").startswith("sha256:")
    assert re.fullmatch(r"deployment-[0-9A-Z]{26}", body.pop("tag"))
    assert body == {
        "dockerfile": str(project / "other.Dockerfile"),
        "target": "prod",
        "args": {"A": "1", "B": "x=y"},
        "labels": {"l": "2"},
        "secrets": {"key": "s3cret", "FROM_HERE": "of the environment"},
        "no_cache": True,
    }
    assert "s3cret" not in outcome.err + outcome.out.replace(json.dumps(DONE), "")


def test_fly_toml_says_how(platform: Api, project: Path, caddis: Caddis) -> None:
    (project / "docker").mkdir()
    (project / "docker" / "web").write_text("FROM alpine AS a\nARG X\nFROM a AS b\n")
    (project / "fly.toml").write_text(
        'app = "hello"\n[build]\ndockerfile = "docker/web"\nbuild-target = "a"\n[build.args]\nX = 1\n'
    )
    outcome = caddis("build")
    assert outcome.code == 0, outcome.err
    assert "Warning: ignoring Dockerfile, and using docker/web" in outcome.err
    assert (sent(platform)["target"], sent(platform)["args"]) == ("a", {"X": "1"})
    (project / "fly.toml").write_text('[build]\nimage = "nginx"\n')
    outcome = caddis("build")
    assert (outcome.code, outcome.out) == (0, "image  nginx\n")


def test_a_mistake_in_fly_toml_is_told_with_its_line(platform: Api, project: Path, caddis: Caddis) -> None:
    (project / "fly.toml").write_text('app = "hello"\n[build]\nbuild-arg = {}\ndockerfile = 1\n')
    outcome = caddis("build")
    assert outcome.code == 2
    assert "Why:   fly.toml:3: build.build-arg: unknown key" in outcome.err
    assert "fly.toml:4: build.dockerfile" in outcome.err
    (project / "fly.toml").write_text('app = "hello"\nodd = 1\n')
    assert caddis("build").code == 2
    assert platform.seen == []
    outcome = caddis("build", "--lenient")
    assert outcome.code == 0, outcome.err
    assert "Warning: fly.toml:2: odd: unknown key" in outcome.err


def test_an_overlay_changes_app_and_build(platform: Api, project: Path, caddis: Caddis) -> None:
    (project / "fly.toml").write_text('app = "another"\n[build.args]\nA = 1\nB = 1\n')
    (project / "fly.staging.toml").write_text('app = "hello"\n[build]\nbuild-target = "prod"\n[build.args]\nB = 2\n')
    (project / "Dockerfile").write_text("FROM alpine AS prod\nARG A\nARG B\nFROM prod\n")
    outcome = caddis("build", "--env", "staging")
    assert outcome.code == 0, outcome.err
    assert (sent(platform)["target"], sent(platform)["args"]) == ("prod", {"A": "1", "B": "2"})


def test_the_file_may_be_elsewhere_and_its_paths_are_relative_to_it(
    platform: Api, project: Path, caddis: Caddis, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "fly.toml").unlink()
    (project / "web").mkdir()
    (project / "deploy").mkdir()
    (project / "deploy" / "Dockerfile").write_text("FROM alpine\n")
    (project / "deploy" / "fly.toml").write_text('app = "hello"\n[build]\ndockerfile = "Dockerfile"\n')
    outcome = caddis("build", "web", "-c", "deploy")
    assert outcome.code == 0, outcome.err
    assert sent(platform)["dockerfile"] == str(project / "deploy" / "Dockerfile")
    monkeypatch.setenv("FLY_CONFIG", "deploy/absent.toml")
    assert "FLY_CONFIG names it" in caddis("build", "web").err


def test_fly_app_counts_before_the_file(
    platform: Api, project: Path, caddis: Caddis, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "fly.toml").write_text('app = "another"\n')
    monkeypatch.setenv("FLY_APP", "hello")
    assert caddis("build").code == 0
    assert sent(platform)


def test_a_mistake_costs_no_upload(platform: Api, push_registry: PushRegistry, project: Path, caddis: Caddis) -> None:
    (project / "Dockerfile").write_text("FROM alpine\nCOPPY app.py /app/\n")
    outcome = caddis("build")
    assert outcome.code == 2
    assert outcome.err == "Error: Dockerfile:2: unknown instruction COPPY\nNext:  did you mean COPY?\n"
    (project / "Dockerfile").write_text("FROM alpine\nCOPY ap.py /app/\n")
    assert "Dockerfile:2: COPY ap.py: there is no such file in the build context" in caddis("build").err
    assert platform.seen == []
    assert push_registry.requests == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--build-arg", "A"], "--build-arg A cannot be read"),
        (["--build-secret", "a b=s3cret"], "the name of a --build-secret cannot be read"),
        (["--build-secret", "ABSENT"], "there is no environment variable ABSENT"),
        (["--tag", "a b"], "'a b' cannot be a tag"),
        (["--build-context-warn-size", "much"], "'much' is no size"),
        (["--config", "absent.toml"], "config file not found at absent.toml"),
        (["--env", "absent"], "--env absent means it"),
        (["--dockerfile", "absent"], "absent' not found"),
        (["--ignorefile", "absent"], "absent' not found"),
        (["absent"], "there is no Dockerfile in"),
    ],
)
def test_usage_errors(project: Path, caddis: Caddis, words: list[str], said: str) -> None:
    outcome = caddis("build", *words)
    assert outcome.code in (1, 2)
    assert said in outcome.err
    assert "s3cret" not in outcome.err


def test_a_large_context_warns_with_its_biggest_files(platform: Api, project: Path, caddis: Caddis) -> None:
    (project / "model.bin").write_bytes(os.urandom(3000))
    outcome = caddis("build", "--build-context-warn-size", "2kB")
    assert "Warning: the context is larger than 2.0 kB; the biggest files are model.bin 3.0 kB" in outcome.err
    assert "Biggest files: model.bin 3.0 kB" in caddis("build").err


def test_a_step_that_fails_is_shown_again_with_its_last_lines(platform: Api, project: Path, caddis: Caddis) -> None:
    lines = [step("started", 2, "RUN make"), *(output(f"line {number}") for number in range(30))]
    platform.on("GET", LOGS, page(900, *lines, step("ended", 2, "RUN make", exit_code=2)), page(900, ended=True))
    failure = {"what": "step 2/2 failed: RUN make", "why": "exit status 2", "next": "look at what it printed above"}
    platform.on("GET", f"{BUILDS}/b1", (200, build("failed", failure=failure)))
    outcome = caddis("build")
    assert outcome.code == 1
    assert outcome.out == ""
    end = outcome.err[outcome.err.index("Error: ") :]
    assert end.startswith("Error: step 2/2 failed: RUN make\nWhy:   line 10\n       line 11\n")
    assert end.endswith("       line 29\n       exit status 2\nNext:  look at what it printed above\n")


def test_a_connection_that_breaks_is_gone_on_with(platform: Api, project: Path, caddis: Caddis) -> None:
    offsets: list[str] = []

    def logs(offset: int, *lines: dict[str, Any], ended: bool = False) -> Callable[[Request], Any]:
        def answer(request: Request) -> Any:
            offsets.append(request.query.get("offset", "0"))
            return page(offset, *lines, ended=ended)

        return answer

    platform.on(
        "GET",
        LOGS,
        logs(10, output("one")),
        *["drop"] * 6,
        (503, {"error": "unavailable"}),
        logs(20, output("two")),
        logs(20, ended=True),
    )
    outcome = caddis("build")
    assert outcome.code == 0, outcome.err
    assert [line for line in outcome.err.splitlines() if line in ("one", "two")] == ["one", "two"]
    assert outcome.err.count("The connection broke") == 1
    assert offsets == ["0", "10", "20"]


def test_a_build_that_a_host_lost_is_run_again(platform: Api, project: Path, caddis: Caddis) -> None:
    platform.on("GET", f"{BUILDS}/b1", (200, build("interrupted")), (200, DONE))
    outcome = caddis("build")
    assert outcome.code == 0, outcome.err
    assert "it goes on from the cache" in outcome.err
    posts = [request for request in platform.seen if request.method == "POST"]
    assert len(posts) == 2
    assert posts[0].body == posts[1].body
    platform.on("GET", f"{BUILDS}/b1", (200, build("interrupted")))
    assert "the host stopped in the middle of the build" in caddis("build").err


def test_a_start_whose_answer_is_lost_makes_one_build(platform: Api, project: Path, caddis: Caddis) -> None:
    platform.on("POST", BUILDS, "drop", (201, build("queued")))
    assert caddis("build").code == 0
    first, second = platform.asked(BUILDS)
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] != ""


def test_one_that_was_cancelled_elsewhere(platform: Api, project: Path, caddis: Caddis) -> None:
    platform.on("GET", f"{BUILDS}/b1", (200, build("cancelled")))
    outcome = caddis("build")
    assert (outcome.code, outcome.err.splitlines()[-1]) == (1, "Error: build b1 was cancelled")


def test_what_the_registry_says_no_to(
    platform: Api, push_registry: PushRegistry, project: Path, caddis: Caddis
) -> None:
    push_registry.password = "another"
    outcome = caddis("build")
    assert outcome.code == 1
    assert "does not know you" in outcome.err
    platform.on("GET", "/v1/platform/registry", (404, {"error": "not_found: this platform has no registry"}))
    assert "caddis build --local-only" in caddis("build").err


async def test_ctrl_c_cancels_the_build_on_the_host(platform: Api, project: Path) -> None:
    def more(request: Request) -> Any:
        return page(int(request.query.get("offset", "0")) + 10, output("still at it"))

    platform.on("GET", LOGS, more)
    platform.on("POST", f"{BUILDS}/b1/cancel", (200, build("cancelled")))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "caddisfly", "build"), cwd=project, stdout=pipe, stderr=pipe
    )
    await eventually(lambda: platform.asked(LOGS), timeout_s=30)
    process.send_signal(signal.SIGINT)
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 130
    assert platform.asked(f"{BUILDS}/b1/cancel")
    assert b"Cancelling build b1" in said
    assert b"Traceback" not in said


def test_ctrl_c_while_it_starts_leaves_no_build_behind(platform: Api, project: Path, caddis: Caddis) -> None:
    def interrupted(request: Request) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return 201, build("queued")

    platform.on("POST", BUILDS, interrupted, (201, build("queued")))
    platform.on("POST", f"{BUILDS}/b1/cancel", (200, build("cancelled")))
    assert caddis("build").code == 130
    first, second = platform.asked(BUILDS)
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert platform.asked(f"{BUILDS}/b1/cancel")


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in that notes how it was called."""
    directory = tmp_path / "bin"
    directory.mkdir()
    notes = tmp_path / "notes"
    program = directory / "docker"
    program.write_text(f'#!/bin/sh\necho "$@" >> {notes}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return notes


def test_local_only_needs_no_platform(project: Path, caddis: Caddis, docker: Path, api: Api) -> None:
    outcome = caddis("build", "--local-only", "--tag", "v1")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "image  registry.fly.io/hello:v1\n"
    assert "--tag registry.fly.io/hello:v1" in docker.read_text()
    assert api.seen == []


def test_local_only_pushes_when_told_to(
    platform: Api, push_registry: PushRegistry, project: Path, caddis: Caddis, docker: Path
) -> None:
    platform.on("GET", "/v1/apps/hello", (200, {"name": "hello"}))
    outcome = caddis("build", "--local-only", "--push", "--tag", "v1")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "image  registry.localhost/hello:v1\n"
    address = push_registry.url.removeprefix("http://")
    assert docker.read_text().splitlines()[-1].endswith(f"push {address}/hello:v1")
    assert "secret" not in docker.read_text()


def test_buildpacks_are_built_here(project: Path, caddis: Caddis, platform: Api) -> None:
    (project / "fly.toml").write_text('app = "hello"\n[build]\nbuilder = "heroku/builder:24"\n')
    outcome = caddis("build")
    assert "hosts build Dockerfiles only" in outcome.err
    assert "caddis build --local-only --push" in outcome.err
