"""`caddis image`, from the words that an operator types to the store of a host that runs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caddisfly.host.images.build import tar_of, write_oci_layout
from tests.images.factories import ImageParts
from tests.images.registry_server import FakeRegistry
from tests.up.conftest import wait_until
from tests.up.test_up import Box, box

__all__ = ["box"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a platform needs root")

WEB = ImageParts(tar_of({"shared": "x" * 5000}), tar_of({"web": "w"}), config={"Cmd": ["/web"], "Env": ["A=1"]})
API = ImageParts(tar_of({"shared": "x" * 5000}), tar_of({"api": "a"}))


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    server = FakeRegistry()
    yield server
    server.close()


@pytest.fixture
def up(box: Box, registry: FakeRegistry) -> Box:
    """A platform whose operator trusts the registry of this computer."""
    with box.file.open("a") as file:
        file.write(f'private_registries = ["{registry.host}"]\ninsecure_registries = ["{registry.host}"]\n')
        file.write("collect_grace_s = 0\n")
    done = box.caddis("up", "--detach")
    assert done.returncode == 0, done.stderr
    return box


def image(box: Box, *words: str, typed: str = "") -> str:
    """What a command prints that goes well."""
    done = box.caddis("image", *words, typed=typed)
    assert done.returncode == 0, done.stderr
    return done.stdout


def said(box: Box, *words: str) -> Any:
    return json.loads(image(box, *words, "--json"))


def refused(box: Box, *words: str, typed: str = "", code: int = 1) -> str:
    """What a command says that does not go well, which is no traceback and nothing on standard output."""
    done: subprocess.CompletedProcess[str] = box.caddis("image", *words, typed=typed)
    assert (done.returncode, done.stdout) == (code, ""), done
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def layers(box: Box) -> list[Path]:
    return sorted((box.directory / "data" / "host" / "images" / "fs" / "layers").iterdir())


def names(box: Box) -> set[str]:
    return {one["name"] for one in said(box, "list")}


def test_images_come_are_shown_checked_and_go(up: Box, registry: FakeRegistry) -> None:
    web, api = registry.push("team/web:1", WEB), registry.push("team/api:1", API)

    assert image(up, "pull", web) == f"{web}@{WEB.digest}  {WEB.digest}\n"
    blobs = registry.asked_for("/blobs/")
    assert said(up, "pull", web)["digest"] == WEB.digest
    assert registry.asked_for("/blobs/") == blobs, "what is here is not fetched again"
    said(up, "pull", api)

    (line,) = [line for line in image(up, "list").splitlines() if line.startswith(web)]
    assert WEB.digest[7:19] in line
    assert "a registry" in line
    (listed,) = [one for one in said(up, "list") if one["name"] == web]
    assert (listed["digest"], listed["unpacked"], listed["imported"], listed["in_use"]) == (
        WEB.digest,
        True,
        False,
        False,
    )

    shown = image(up, "show", web)
    assert "/web" in shown
    assert "A=1" in shown
    assert shown.count("\tready\n") == 2
    record = said(up, "show", web)
    assert (record["digest"], record["machines"]) == (WEB.digest, [])
    assert [layer["state"] for layer in record["layers"]] == ["ready", "ready"]

    layout = up.directory / "layout"
    digest = write_oci_layout(layout, layers=[tar_of({"mine": "m"})])
    assert said(up, "import", str(layout), "mine:v1")["digest"] == digest
    (mine,) = [one for one in said(up, "list") if one["imported"]]
    assert mine["name"].endswith("mine:v1")

    assert image(up, "rm", "mine:v1") == "removed mine:v1\n"
    assert names(up) == {web, api}
    collected = said(up, "gc")
    assert collected["images"] == 0, "they were asked for by name"
    assert len(layers(up)) == 3
    image(up, "rm", api)
    assert len(layers(up)) == 2, "the layer that both have stays"
    assert names(up) == {web}


def test_what_is_damaged_is_fetched_again_or_named(up: Box, registry: FakeRegistry) -> None:
    web = registry.push("team/web:1", WEB)
    image(up, "pull", web)
    layout = up.directory / "layout"
    write_oci_layout(layout, layers=[tar_of({"mine": "m"})])
    image(up, "import", str(layout), "mine:v1")
    assert image(up, "verify") == "3 layers read, 0 damaged, 0 fetched again\n"

    (damaged,) = [path for path in layers(up) if (path / "web").exists()]
    (damaged / "web").write_text("changed")
    found = said(up, "verify", web)
    assert (found["layers"], found["problems"]) == (2, [])
    assert found["damaged"] == found["repaired"] == [f"sha256:{damaged.name}"]
    assert (damaged / "web").read_text() == "w"

    (lost,) = [path for path in layers(up) if (path / "mine").exists()]
    (lost / "mine").write_text("changed")
    done = up.caddis("image", "verify")
    assert done.returncode == 1, done
    assert done.stdout.startswith("3 layers read, 1 damaged, 0 fetched again\nnot repaired: ")
    assert "import it again" in done.stdout or "imported from a file" in done.stdout

    (damaged / "web").write_text("changed")
    registry.always = "503"
    done = up.caddis("image", "gc", "--verify", "--json")
    assert done.returncode == 1, done
    assert json.loads(done.stdout)["repaired"] == []


def test_an_image_of_a_machine_stays(up: Box, registry: FakeRegistry) -> None:
    web = registry.push("team/web:1", WEB)
    image(up, "pull", web)
    assert up.caddis("apps", "create", "hello").returncode == 0
    made = up.caddis("machine", "create", web, "-a", "hello", "--json")
    assert made.returncode == 0, made.stderr
    id = json.loads(made.stdout)["id"]
    assert said(up, "show", web)["machines"] == [id]
    why = refused(up, "rm", web)
    assert "is used by 1 Machine" in why
    assert id in why
    assert "--force" in why
    image(up, "rm", web, "--force")
    image(up, "gc", "--all")
    assert len(layers(up)) == 2, "the Machine has them still"
    gone = up.caddis("machine", "destroy", id, "-a", "hello", "--force")
    assert gone.returncode == 0, gone.stderr

    def collected() -> bool:
        image(up, "gc", "--all")
        return layers(up) == []

    wait_until(collected)


def test_a_registry_that_wants_to_know_who_asks(up: Box, registry: FakeRegistry) -> None:
    web = registry.push("team/web:1", WEB)
    registry.user = ("acme", "s3cret")
    assert "unauthorized" in refused(up, "pull", web, "--anonymous", code=2).lower()
    wrong = refused(up, "pull", web, "--username", "acme", typed="another\n", code=2)
    assert "another" not in wrong
    image(up, "pull", web, "--username", "acme", typed="s3cret\n")
    assert said(up, "show", web)["digest"] == WEB.digest
    for log in (up.directory / "data").rglob("*.log"):
        assert "s3cret" not in log.read_text(errors="replace"), log


def test_wrong_words_are_told_what_is_wrong_with_them(up: Box, registry: FakeRegistry) -> None:
    absent = f"{registry.host}/team/absent:1"
    assert "manifest unknown" in refused(up, "pull", absent, code=2).lower()
    assert "Team/Web" in refused(up, "pull", "Team/Web:1", code=2)
    assert "belong to apps" in refused(up, "pull", "registry.localhost/hello:v1", code=2)
    for words in (("show", absent), ("rm", absent), ("verify", absent)):
        assert "caddis image list" in refused(up, *words)
    assert "does not exist on this host" in refused(up, "import", "/no/where", "x:1", code=2)
    junk = up.directory / "junk.tar"
    junk.write_bytes(b"this is no image" * 1000)
    refused(up, "import", str(junk), "x:1", code=2)
    empty = up.directory / "empty"
    empty.mkdir()
    refused(up, "import", str(empty), "x:1", code=2)
    layout = up.directory / "layout"
    write_oci_layout(layout, layers=[tar_of({"mine": "m"})])
    refused(up, "import", str(layout), "x:1", "--select", "other", code=2)
    assert "belong to apps" in refused(up, "import", str(layout), "registry.localhost/hello:v1", code=2)
    assert names(up) == set()
    assert up.caddis("down").returncode == 0
    assert "caddis status" in refused(up, "list")
