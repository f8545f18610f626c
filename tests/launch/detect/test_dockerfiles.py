"""What is generated for every framework: it can be read, copies only what is there, and keeps the promises of all."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from caddisfly.launch.build import context, dockerfile, ignore, stages
from caddisfly.launch.build.stages import Plan
from caddisfly.launch.detect import Detection, apply
from tests.launch.detect import projects
from tests.launch.detect.projects import EVERY, found

EACH = pytest.mark.parametrize("name", EVERY)
_ROOT_USERS = ("root", "0", "")


def generated(root: Path, name: str) -> Detection:
    files, _ = EVERY[name]
    return found(root, files)


def planned(one: Detection) -> Plan:
    text = next(change.after for change in one.changes if change.path == "Dockerfile")
    return stages.plan(dockerfile.read(text.encode()))


@EACH
def test_each_framework_is_found_with_its_port(tmp_path: Path, name: str) -> None:
    one = generated(tmp_path, name)
    assert one.chosen.framework.name == name
    assert one.recipe.settings.port == EVERY[name][1]
    assert one.tied == ()
    assert all(default.why for default in one.recipe.settings.defaults)


@EACH
def test_its_dockerfile_is_read_without_a_doubt_and_copies_what_is_there(tmp_path: Path, name: str) -> None:
    one = generated(tmp_path, name)
    plan = planned(one)
    assert plan.doubts == ()
    apply(one.folder.root, one.changes)
    plan.check_sources(context.walk(one.folder.root, ignore.choose(one.folder.root)))


@EACH
def test_it_runs_as_somebody_who_is_not_root_and_gets_its_signals(tmp_path: Path, name: str) -> None:
    one = generated(tmp_path, name)
    last = planned(one).target
    users = [instruction.rest.partition(":")[0] for instruction in last.instructions if instruction.name == "USER"]
    assert users, "no USER"
    assert users[-1] not in _ROOT_USERS
    command = last.instructions[-1]
    assert command.name == "CMD"
    words = json.loads(command.rest)
    assert words == list(one.recipe.start)
    assert words[0] not in ("sh", "npm", "yarn", "pnpm"), "what stands between a process and its signals"


@EACH
def test_the_port_of_fly_toml_is_the_one_it_exposes(tmp_path: Path, name: str) -> None:
    one = generated(tmp_path, name)
    exposed = [instruction.rest for instruction in planned(one).target.instructions if instruction.name == "EXPOSE"]
    assert exposed == [str(one.recipe.settings.port)]


@EACH
def test_nothing_of_it_needs_buildkit(tmp_path: Path, name: str) -> None:
    for stage in planned(generated(tmp_path, name)).stages:
        for instruction in stage.instructions:
            assert not instruction.heredocs
            assert {flag for flag, _ in instruction.flags} <= {"from", "chown"}


@EACH
def test_packages_are_installed_before_the_source_is_copied(tmp_path: Path, name: str) -> None:
    """A stage that installs from a manifest copies the whole folder only after that."""
    for stage in planned(generated(tmp_path, name)).stages:
        texts = [f"{instruction.name} {instruction.rest}" for instruction in stage.instructions]
        installs = [
            number
            for number, text in enumerate(texts)
            if text.startswith("RUN") and any(word in text for word in _INSTALLS) and "global" not in text
        ]
        whole = [number for number, text in enumerate(texts) if text == "COPY . ."]
        if installs and whole:
            assert installs[0] < whole[0], texts


_INSTALLS = (
    "pip install -r",
    "uv sync",
    "poetry install",
    "npm ci",
    "npm install",
    "pnpm install",
    "yarn install",
    "bun install",
    "bundle install",
    "go mod download",
    "mix deps.get",
    "shards install",
    "composer install",
    "dotnet restore",
    "dependency:go-offline",
)


@EACH
def test_secrets_of_the_folder_stay_out_of_the_image(tmp_path: Path, name: str) -> None:
    one = generated(tmp_path, name)
    text = next(change.after for change in one.changes if change.path == ".dockerignore")
    rules = ignore.parse(text.encode(), origin=".dockerignore")
    for path in (".git/config", ".env", "web/.env.production"):
        assert rules.ignores(path), path
    assert rules.ignores("config/master.key") or name != "rails"


@pytest.fixture
def buildah(tmp_path: Path) -> list[str]:
    """`buildah bud` with a storage of its own."""
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not here")
    storage = ["--root", str(tmp_path / "root"), "--runroot", str(tmp_path / "run"), "--storage-driver", "vfs"]
    return ["buildah", *storage, "bud", "--pull-never"]


def test_buildah_parses_all_of_them(tmp_path: Path, buildah: list[str]) -> None:
    """Parses, no more: base images are not pulled, so that a build ends at its first FROM. By then buildah has split
    the whole file into stages and steps, and its count of both must be ours; it takes the lines of a heredoc for steps.
    """
    for name in EVERY:
        one = generated(tmp_path / name, name)
        plan = planned(one)
        apply(one.folder.root, one.changes)
        done = subprocess.run([*buildah, str(one.folder.root)], capture_output=True, text=True, timeout=60)
        assert "image not known" in done.stderr, done.stderr
        everything = stages.plan(dockerfile.read((one.folder.root / "Dockerfile").read_bytes())).stages
        assert everything == plan.stages, "no stage is in vain"
        first = 1 + len(everything[0].instructions)
        counted = f"[1/{len(everything)}] STEP 1/{first}:" if len(everything) > 1 else f"STEP 1/{first}:"
        assert counted in done.stdout + done.stderr, (name, counted, done.stdout)


@pytest.mark.parametrize("name", ["django", "next", "rails", "go", "deno", "php"])
def test_buildah_carries_out_what_needs_no_base_image(tmp_path: Path, buildah: list[str], name: str) -> None:
    """The last stage on `scratch`, without its RUN and what it takes of other stages: the rest is done for real."""
    one = generated(tmp_path / name, name)
    target = planned(one).target
    apply(one.folder.root, one.changes)
    kept = [
        f"{instruction.name} {instruction.rest}"
        for instruction in target.instructions
        if instruction.name != "RUN" and not instruction.flag("from")
    ]
    (one.folder.root / "Dockerfile").write_text("\n".join(["FROM scratch", *kept]) + "\n")
    done = subprocess.run([*buildah, str(one.folder.root)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "WARN" not in done.stderr, done.stderr


def test_a_django_dockerfile(tmp_path: Path) -> None:
    """The one that says most: two images, static files collected at build, nothing of the app writable."""
    one = found(tmp_path, projects.DJANGO)
    text = next(change.after for change in one.changes if change.path == "Dockerfile")
    assert text == (Path(__file__).parent / "golden" / "django.Dockerfile").read_text()


def test_a_next_dockerfile(tmp_path: Path) -> None:
    one = found(tmp_path, projects.NEXT)
    text = next(change.after for change in one.changes if change.path == "Dockerfile")
    assert text == (Path(__file__).parent / "golden" / "next.Dockerfile").read_text()
