"""Dockerfiles become images, in the way their authors know."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from caddisfly.bus import contract
from caddisfly.model.errors import NotFound
from tests.builds.conftest import BuildingAgent, another_app
from tests.builds.registry import PushRegistry


def files_of(registry: PushRegistry, build: dict[str, Any], *, repository: str = "demo") -> dict[str, bytes]:
    """The regular files of the image that was pushed, by path."""
    found: dict[str, bytes] = {}
    for layer in registry.manifest(repository, build["digest"])["layers"]:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(registry.blobs[layer["digest"]]))) as tar:
            for member in tar:
                if member.isfile():
                    content = tar.extractfile(member)
                    assert content is not None
                    found[member.name] = content.read()
    return found


async def test_a_dockerfile_becomes_an_image_in_the_registry(agent: BuildingAgent, registry: PushRegistry) -> None:
    build = await agent.built(
        'FROM busybox\nWORKDIR /app\nCOPY a.txt .\nRUN tr a-z A-Z < a.txt > b.txt\nCMD ["cat", "/app/b.txt"]\n',
        labels={"version": "7"},
        tag="v1",
    )
    assert build["image"] == "registry.localhost/demo:v1"
    assert registry.manifest("demo", "v1") == registry.manifest("demo", build["digest"])
    config = registry.config("demo", "v1")["config"]
    assert (config["Cmd"], config["WorkingDir"]) == (["cat", "/app/b.txt"], "/app")
    assert config["Labels"]["version"] == "7"
    assert files_of(registry, build)["app/b.txt"] == b"HELLO\n"


async def test_the_log_tells_the_steps_and_what_they_printed(agent: BuildingAgent) -> None:
    build = await agent.built("FROM busybox\nRUN echo first; echo second >&2\nENV A=1\n", no_cache=True)
    lines = await agent.log_lines(build)
    steps = [(line["step"]["event"], line["step"]["number"]) for line in lines if line["kind"] == "step"]
    assert steps == [(event, number) for number in (1, 2, 3) for event in ("started", "ended")]
    run = next(line for line in lines if line["kind"] == "step" and line["step"]["number"] == 2)
    assert (run["step"]["of"], run["step"]["text"]) == (3, "RUN echo first; echo second >&2")
    # In either order: they come through pipes of their own.
    assert {"first", "second"} <= {line["message"] for line in lines}
    assert lines[-1]["message"].startswith("done: registry.localhost/demo:latest@sha256:")


async def test_a_log_is_read_on_from_where_the_connection_broke(agent: BuildingAgent) -> None:
    build = await agent.built("FROM busybox\nRUN for i in 1 2 3 4; do echo line $i; done\n", no_cache=True)
    lines = await agent.log_lines(build)
    middle = next(line for line in lines if line["message"] == "line 2")
    page = await agent.ask(
        contract.READ_BUILD_LOG,
        contract.ReadBuildLog(build_id=build["id"], app_id=agent.app.id, offset=middle["offset"]),
    )
    assert page.lines[0]["message"] == "line 3"


async def test_stages_args_and_target(agent: BuildingAgent, registry: PushRegistry) -> None:
    dockerfile = (
        "ARG BASE=busybox\nFROM $BASE AS make\nARG NAME=nobody\nRUN echo $NAME > /made\n"
        "FROM busybox AS wanted\nCOPY --from=make /made /from-make\nFROM busybox\nRUN exit 1\n"
    )
    build = await agent.built(dockerfile, args={"NAME": "somebody"}, target="wanted")
    assert files_of(registry, build)["from-make"] == b"somebody\n"


async def test_nothing_changed_means_nothing_runs(agent: BuildingAgent) -> None:
    dockerfile = "FROM busybox\nCOPY a.txt /\nRUN echo really ran; sha256sum /a.txt > /sum\n"
    first = await agent.built(dockerfile)
    second = await agent.built(dockerfile)
    assert second["digest"] == first["digest"]
    assert "really ran" not in await agent.output(second)
    cached = [
        line["step"]["cached"] for line in await agent.log_lines(second) if line.get("step", {}).get("event") == "ended"
    ]
    assert cached == [False, True, True]  # FROM is no step that could be cached
    third = await agent.built(dockerfile, no_cache=True)
    assert "really ran" in await agent.output(third)
    fourth = await agent.built(dockerfile, files={"a.txt": "changed\n"})
    assert "really ran" in await agent.output(fourth)


async def test_cache_mounts_are_kept_for_the_app_and_not_shared(agent: BuildingAgent) -> None:
    dockerfile = "FROM busybox\nRUN --mount=type=cache,target=/cache ls /cache; echo kept > /cache/file-of-the-app\n"
    await agent.built(dockerfile, no_cache=True)
    assert "file-of-the-app" in await agent.output(await agent.built(dockerfile, no_cache=True))
    for app in (another_app("sibling", org="org1", network_id=7), another_app("stranger")):
        build = await agent.built(dockerfile, app=app, no_cache=True)
        assert "file-of-the-app" not in await agent.output(build, app=app)


async def test_layers_of_one_organization_are_not_used_for_another(agent: BuildingAgent) -> None:
    dockerfile = "FROM busybox\nRUN echo made here\n"
    await agent.built(dockerfile)
    stranger = another_app("stranger2")
    assert "made here" in await agent.output(await agent.built(dockerfile, app=stranger), app=stranger)


async def test_what_the_operator_sets_reaches_steps_and_no_image(agent: BuildingAgent, registry: PushRegistry) -> None:
    build = await agent.built("FROM busybox\nRUN env; cat /etc/shown-by-the-operator\n", no_cache=True)
    output = await agent.output(build)
    assert "PIP_INDEX_URL=http://127.0.0.1:8081/simple" in output
    assert 'ODD=a "b" & c|d\\e' in output
    assert Path("/etc/debian_version").read_text().strip() in output
    assert "PIP_INDEX_URL" not in str(registry.config("demo", build["digest"]))
    assert not files_of(registry, build).get("etc/shown-by-the-operator")


async def test_what_the_image_sets_wins_over_the_operator(agent: BuildingAgent) -> None:
    build = await agent.built("FROM busybox\nENV PIP_INDEX_URL=mine\nRUN echo index=$PIP_INDEX_URL\n", no_cache=True)
    assert "index=mine" in await agent.output(build)


async def test_the_step_that_failed_is_named(agent: BuildingAgent) -> None:
    build = await agent.ended(await agent.build("FROM busybox\nRUN echo about to fail; exit 3\nRUN true\n"))
    assert build["state"] == "failed"
    assert build["failure"]["what"] == "step 2/3 failed: RUN echo about to fail; exit 3"
    assert (build["step"]["number"], build["step"]["exit_code"]) == (2, 3)
    ended = [line["step"] for line in await agent.log_lines(build) if line.get("step", {}).get("event") == "ended"]
    assert ended[-1]["exit_code"] == 3


async def test_steps_before_the_one_that_failed_are_kept(agent: BuildingAgent) -> None:
    first = "FROM busybox\nRUN echo long work, app kept-steps\n"
    await agent.ended(await agent.build(first + "RUN exit 1\n"))
    assert "long work, app kept-steps" not in await agent.output(await agent.built(first + "RUN true\n"))


@pytest.mark.parametrize(
    ("base", "registry_asked"),
    [("nope:1", "127.0.0.1:"), ("registry.example.invalid/team/base", "registry.example.invalid")],
)
async def test_a_missing_base_image_names_the_registry(agent: BuildingAgent, base: str, registry_asked: str) -> None:
    build = await agent.ended(await agent.build(f"FROM {base}\nRUN true\n"))
    assert build["failure"]["status"] == "no_base_image"
    assert build["failure"]["what"] == f"base image {base} is not there"
    assert f"registry {registry_asked}" in build["failure"]["why"]


async def test_an_unknown_instruction_is_an_error_of_the_dockerfile(agent: BuildingAgent) -> None:
    build = await agent.ended(await agent.build("FROM busybox\nRUNN true\n"))
    assert build["state"] == "failed"
    assert "RUNN" in build["failure"]["what"] + build["failure"]["why"]


async def test_a_context_that_was_not_pushed_is_said_to_be_missing(agent: BuildingAgent) -> None:
    request = contract.StartBuild(build_id="0" * 13 + "1", app=agent.app, context="sha256:" + "1" * 64)
    build = await agent.ended((await agent.ask(contract.START_BUILD, request)).build)
    assert build["failure"]["status"] == "no_context"


async def test_starting_the_same_build_twice_makes_one(agent: BuildingAgent) -> None:
    build = await agent.built("FROM busybox\nRUN true\n")
    again = contract.StartBuild(build_id=build["id"], app=agent.app, context="sha256:" + "2" * 64)
    assert (await agent.ask(contract.START_BUILD, again)).build == build


async def test_a_build_of_another_app_is_not_there(agent: BuildingAgent) -> None:
    build = await agent.built("FROM busybox\nRUN true\n")
    for method, kind in (
        (contract.SHOW_BUILD, contract.BuildCall),
        (contract.CANCEL_BUILD, contract.BuildCall),
        (contract.READ_BUILD_LOG, contract.ReadBuildLog),
    ):
        with pytest.raises(NotFound):
            await agent.ask(method, kind(build_id=build["id"], app_id="somebody-else"))
