"""`caddis launch --no-deploy`, as a user runs it, on a platform with simulated hosts."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from caddisfly.pytest_plugin import CaddisDev
from tests.cli.conftest import Outcome
from tests.launch.detect import projects
from tests.launch.detect.projects import Files, project

Caddis = Callable[..., Outcome]


@pytest.fixture
def caddis(caddis_on_dev: Caddis, caddis_dev: CaddisDev) -> Iterator[Caddis]:
    """What a test makes is gone after it: names are few."""
    before = app_names(caddis_dev)
    yield caddis_on_dev
    for name in app_names(caddis_dev) - before:
        caddis_dev.client.apps.delete(name)


def app_names(caddis_dev: CaddisDev) -> set[str]:
    return {str(app["name"]) for app in caddis_dev.client.apps.list()}


def fly_toml(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "fly.toml").read_text())


def secret_names(caddis_dev: CaddisDev, app: str) -> set[str]:
    return {str(secret["name"]) for secret in caddis_dev.client.secrets.list(app)}


FLASK: Files = {"app.py": "from flask import Flask\napp = Flask(__name__)\n", "requirements.txt": "Flask==3.0\n"}
SCENARIOS: dict[str, tuple[Files, str, int | None]] = {
    "L1": (projects.FASTAPI, "FastAPI", 8000),
    "L2": (projects.FLASK_UV, "Flask", 8080),
    "L3": (FLASK, "Flask", 8080),
    "L4": (projects.DJANGO, "Django", 8000),
    "L5": (projects.STREAMLIT, "Streamlit", 8501),
    "L6": (projects.NUMPY, "Python", 8080),
    "L7": (projects.RUFF_AND_FASTAPI, "FastAPI", 8000),
    "L8": (projects.NEXT, "Next.js", 3000),
    "L9": (projects.VITE, "Vite", 8080),
    "L10": (projects.GO, "Go", 8080),
    "L11": (projects.OWN_DOCKERFILE, "Dockerfile", 5000),
    "L12": (projects.RAILS, "Rails", 3000),
    "L13": (projects.DENO, "Deno", 8080),
    "L14": (projects.MAVEN, "Java", 8080),
    "L15": (projects.COMPOSE, "Dockerfile", 8080),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_folders_of_the_reference(scenario: str, caddis: Caddis, caddis_dev: CaddisDev, tmp_path: Path) -> None:
    files, title, port = SCENARIOS[scenario]
    folder = tmp_path / f"shop-{scenario.lower()}"
    project(folder, files)
    done = caddis("launch", str(folder), "--no-deploy")
    assert done.code == 0, done.err
    assert done.out.startswith(f"App {' ' * 13}{title} (")
    written = fly_toml(folder)
    assert written["app"] == folder.name
    assert written["primary_region"] in caddis_dev.regions
    assert written["http_service"]["internal_port"] == port
    assert written["vm"] == [{"size": "shared-cpu-1x", "memory": "1gb"}]
    assert (folder / "Dockerfile").is_file()
    assert caddis_dev.client.apps.get(folder.name)["machine_count"] == 0
    assert caddis("config", "validate", "-c", str(folder)).code == 0

    again = caddis("launch", str(folder), "--no-deploy")  # comes to the same
    assert again.code == 0, again.err
    assert fly_toml(folder) == written
    assert "New file" not in again.out


def test_what_a_scanner_wants_is_set_or_named(caddis: Caddis, caddis_dev: CaddisDev, tmp_path: Path) -> None:
    project(tmp_path / "shop", projects.RAILS)
    done = caddis("launch", "shop", "--no-deploy", "--secret", "STRIPE=abc", "--org", "personal")
    assert done.code == 0, done.err
    assert secret_names(caddis_dev, "shop") == {"RAILS_MASTER_KEY", "STRIPE"}
    assert "0123456789abcdef" not in done.out + done.err + (tmp_path / "shop" / "fly.toml").read_text()
    assert "  caddis secrets set DATABASE_URL=... -a shop" in done.err.splitlines()
    assert done.err.splitlines()[-1] == "Next: caddis deploy shop"


def test_a_generated_secret_is_generated_once(caddis: Caddis, caddis_dev: CaddisDev, tmp_path: Path) -> None:
    project(tmp_path / "shop", projects.DJANGO)
    assert caddis("launch", "shop", "--no-deploy").code == 0
    first = caddis_dev.client.secrets.list("shop")
    assert [secret["name"] for secret in first] == ["SECRET_KEY"]
    assert caddis("launch", "shop", "--no-deploy").code == 0
    assert caddis_dev.client.secrets.list("shop") == first


def test_a_release_command_waits_for_its_database(caddis: Caddis, tmp_path: Path) -> None:
    project(tmp_path / "shop", projects.DJANGO)
    done = caddis("launch", "shop", "--now")
    assert done.code == 1
    assert "Error: shop is launched, but not deployed" in done.err
    assert "`python manage.py migrate --noinput` runs before the deploy and needs DATABASE_URL" in done.err


CHECKED = """\
app = "store"
[build]
image = "acme/store:1"
[http_service]
internal_port = 8080
[[http_service.checks]]
interval = "1s"
timeout = "1s"
grace_period = "1s"
path = "/"
[deploy]
release_command = "migrate"
seed_command = "seed"
"""


def test_a_launch_ends_with_a_deploy_and_may_be_repeated(caddis: Caddis, caddis_dev: CaddisDev, tmp_path: Path) -> None:
    project(tmp_path / "shop", {"fly.toml": CHECKED})
    for seeds in (True, False):
        done = caddis("launch", "shop", "--yes", "--ha=false", "--secret", "KEY=1")
        assert done.code == 0, done.err
        assert ("run the seed command, this once: seed" in done.err) == seeds
        assert [one["state"] for one in caddis_dev.client.machines.list("store")] == ["started"]
    assert "Release v2 of store is complete: " in done.out


def test_what_must_be_looked_at_is_not_deployed(caddis: Caddis, tmp_path: Path) -> None:
    project(tmp_path / "shop", projects.NUMPY)
    done = caddis("launch", "shop", "--yes")
    assert done.code == 1
    assert "Error: shop is launched, but not deployed" in done.err
    assert "is a guess" in done.err


def test_an_empty_folder_gets_an_answer_and_no_guess(caddis: Caddis, caddis_dev: CaddisDev, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    done = caddis("launch", "shop", "--yes")
    assert done.code == 1
    assert done.err.splitlines() == [
        f"Error: no app found in {tmp_path}/shop",
        "Why:   there is nothing in it",
        "Next:  add a Dockerfile, name a --framework, or deploy an image with --image",
    ]
    assert list((tmp_path / "shop").iterdir()) == []
    assert "shop" not in app_names(caddis_dev)


def test_each_flag_is_in_the_file(caddis: Caddis, caddis_dev: CaddisDev, tmp_path: Path) -> None:
    project(tmp_path / "shop", projects.FASTAPI)
    flags = "--name store --region fra --vm-memory 2gb --vm-cpus 2 --internal-port 9000 --auto-stop off --env A=1"
    more = ("--command", "fastapi run --port 9000", "--volume", "data:/data:initial_size=5gb")
    done = caddis("launch", "shop", "--no-deploy", *flags.split(), *more)
    assert done.code == 0, done.err
    written = fly_toml(tmp_path / "shop")
    assert (written["app"], written["primary_region"]) == ("store", "fra")
    assert written["vm"] == [{"size": "shared-cpu-1x", "memory": "2gb", "cpus": 2}]
    assert written["http_service"]["internal_port"] == 9000
    assert written["http_service"]["auto_stop_machines"] == "off"
    assert written["env"] == {"A": "1"}
    assert written["processes"] == {"app": "fastapi run --port 9000"}
    assert written["mounts"][0]["source"] == "data"
    assert written["mounts"][0]["initial_size"] == "5gb"
    assert "FastAPI listens on 8000" in done.err  # the Dockerfile still says so


def test_an_image_needs_no_source_and_port_0_no_service(caddis: Caddis, tmp_path: Path) -> None:
    (tmp_path / "worker").mkdir()
    done = caddis("launch", "worker", "--no-deploy", "--image", "acme/worker:7", "--internal-port", "0")
    assert done.code == 0, done.err
    written = fly_toml(tmp_path / "worker")
    assert written["build"] == {"image": "acme/worker:7"}
    assert "http_service" not in written
    assert [path.name for path in (tmp_path / "worker").iterdir()] == ["fly.toml"]


def test_a_dockerfile_elsewhere_and_its_ignore_file(caddis: Caddis, tmp_path: Path) -> None:
    files = {
        "docker/web": "FROM alpine\nEXPOSE 7000\n",
        ".gitignore": "secret.txt\n",
        "web/.gitignore": "/out\n*.map\n",
    }
    project(tmp_path / "shop", files)
    done = caddis(
        "launch", "shop", "--no-deploy", "--dockerfile", "shop/docker/web", "--dockerignore-from-gitignore", "--json"
    )
    assert done.code == 0, done.err
    assert not (tmp_path / "shop" / "fly.toml").exists()
    written = json.loads((tmp_path / "shop" / "fly.json").read_text())
    assert written["build"] == {"dockerfile": "docker/web"}
    assert written["http_service"]["internal_port"] == 7000
    ignored = (tmp_path / "shop" / ".dockerignore").read_text().splitlines()
    assert {"**/secret.txt", "web/out", "web/**/*.map"} < set(ignored)


KEPT = """\
# Ours since 2019.
app = "store"  # do not rename
primary_region = "nowhere"

[http_service]
internal_port = 8000  # as in the Dockerfile

[custom]
"""


def test_a_file_that_is_there_is_kept_with_its_comments(caddis: Caddis, tmp_path: Path) -> None:
    project(tmp_path / "shop", {**projects.FASTAPI, "fly.toml": KEPT.replace("\n[custom]\n", "")})
    refused = caddis("launch", "shop", "--no-deploy")
    assert refused.code == 1
    assert "Error: this needs an answer: Change fly.toml?" in refused.err
    assert "Next:  --yes answers it" in refused.err

    done = caddis("launch", "shop", "--no-deploy", "--yes", "--internal-port", "9000")
    assert done.code == 0, done.err
    assert "there is no host in nowhere, which your fly.toml names" in done.out
    assert '-primary_region = "nowhere"' in done.err.splitlines()
    text = (tmp_path / "shop" / "fly.toml").read_text()
    assert '# Ours since 2019.\napp = "store"  # do not rename\nprimary_region = "ams"\n' in text
    assert "internal_port = 9000  # as in the Dockerfile\n" in text
    assert "force_https" not in text  # what it does not say is not added


def test_a_mistake_in_a_kept_file_is_told_with_its_line(caddis: Caddis, tmp_path: Path) -> None:
    project(tmp_path / "shop", {**projects.FASTAPI, "fly.toml": KEPT})
    done = caddis("launch", "shop", "--yes")
    assert done.code == 2
    assert "fly.toml:8: custom" in done.err
    assert sorted(path.name for path in (tmp_path / "shop").iterdir()) == ["fly.toml", "main.py", "requirements.txt"]


def test_a_named_file_that_is_missing_is_an_error(caddis: Caddis, tmp_path: Path) -> None:
    project(tmp_path / "shop", projects.FASTAPI)
    done = caddis("launch", "shop", "-c", "fly.staging.toml", "--yes")
    assert done.code == 1
    assert "config file not found at fly.staging.toml" in done.err


def test_names_that_are_taken(caddis: Caddis, caddis_dev: CaddisDev, tmp_path: Path) -> None:
    project(tmp_path / "registry", projects.FASTAPI)  # a name that the platform has for itself
    given = caddis("launch", "registry", "--no-deploy", "--name", "registry")
    assert given.code == 1
    assert "Error: the name registry is taken" in given.err
    assert "--generate-name" in given.err
    assert not (tmp_path / "registry" / "fly.toml").exists()

    near = caddis("launch", "registry", "--no-deploy")
    assert near.code == 0, near.err
    assert fly_toml(tmp_path / "registry")["app"].startswith("registry-")


def test_an_app_of_another_folder_is_not_taken_over(caddis: Caddis, caddis_dev: CaddisDev, tmp_path: Path) -> None:
    project(tmp_path / "one" / "shop", projects.FASTAPI)
    project(tmp_path / "two" / "shop", projects.FASTAPI)
    assert caddis("launch", "one/shop", "--no-deploy").code == 0
    caddis_dev.client.machines.create("shop", {"image": "shop:1"})
    other = caddis("launch", "two/shop", "--no-deploy")
    assert other.code == 0, other.err
    assert fly_toml(tmp_path / "two" / "shop")["app"].startswith("shop-")

    project(tmp_path / "three", projects.FASTAPI)
    named = caddis("launch", "three", "--no-deploy", "--name", "shop", "--yes")
    assert named.code == 1
    assert "Error: app shop exists already, with 1 Machines" in named.err
    assert not (tmp_path / "three" / "fly.toml").exists()

    caddis_dev.client.apps.create("early")
    made_before = caddis("launch", "three", "--no-deploy", "--name", "early")
    assert made_before.code == 0, made_before.err
    assert "App early exists already, and it has no Machines yet: this goes on with it" in made_before.err


def test_in_a_terminal_the_plan_can_be_changed(caddis: Caddis, tmp_path: Path) -> None:
    project(tmp_path / "shop", projects.FASTAPI)
    typed = ("y", "Store!", "store", "nowhere", "fra", "512mb", "9000", "")
    done = caddis("launch", "shop", "--no-deploy", stdin="\n".join(typed), terminal=True)
    assert done.code == 0, done.err
    written = fly_toml(tmp_path / "shop")
    assert (written["app"], written["primary_region"]) == ("store", "fra")
    assert written["vm"][0]["memory"] == "512mb"
    assert written["http_service"]["internal_port"] == 9000


def test_in_a_terminal_files_are_asked_for(caddis: Caddis, tmp_path: Path) -> None:
    project(tmp_path / "shop", {**projects.FASTAPI, "Dockerfile": "FROM mine\n", ".dockerignore": "", "fly.toml": ""})
    typed = "n\n" * 4  # not this fly.toml; change nothing; not the Dockerfile; not fly.toml
    done = caddis("launch", "shop", "--no-deploy", "--framework", "fastapi", stdin=typed, terminal=True)
    assert done.code == 1
    assert "-FROM mine" in done.err
    assert (tmp_path / "shop" / "Dockerfile").read_text() == "FROM mine\n"
    assert (tmp_path / "shop" / "fly.toml").read_text() == ""
    assert "shop" not in [app["name"] for app in caddis("apps", "list", "--json").json]


def test_an_api_that_is_away_leaves_the_folder_alone(
    caddis: Caddis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project(tmp_path / "shop", projects.FASTAPI)
    with monkeypatch.context() as patch:
        patch.setenv("CADDIS_API_URL", "http://127.0.0.1:1")
        away = caddis("launch", "shop", "--no-deploy")
    assert away.code == 1
    assert "does not answer" in away.err
    assert sorted(path.name for path in (tmp_path / "shop").iterdir()) == ["main.py", "requirements.txt"]
    assert caddis("launch", "shop", "--no-deploy").code == 0


KILLED = """
import importlib, os, signal, sys
from caddisfly.cli import app
place, name = sys.argv.pop(1).rsplit(".", 1)
module, _, kind = place.partition(":")
owner = getattr(importlib.import_module(module), kind) if kind else importlib.import_module(module)
real = getattr(owner, name)
def deadly(*args, **kwargs):
    real(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, deadly)
app.run(app.build())
"""
STEPS = (
    "caddisfly.launch.plan.unfinished:Unfinished.intending",
    "caddisfly.client.synchronous:Apps.create",
    "caddisfly.launch.detect.changes._write",
    "caddisfly.launch.detect.apply",
    "caddisfly.client.secrets:Secrets.change",
    "caddisfly.launch.plan.unfinished:Unfinished.done",
)


@pytest.mark.parametrize("step", STEPS)
def test_killed_after_any_step_the_next_launch_converges(
    step: str, caddis: Caddis, caddis_dev: CaddisDev, tmp_path: Path
) -> None:
    project(tmp_path / "shop", projects.DJANGO)
    others = app_names(caddis_dev)
    argv = [sys.executable, "-c", KILLED, step, "launch", "shop", "--no-deploy", "--generate-name"]
    killed = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert killed.returncode == -9, killed.stderr
    before = app_names(caddis_dev) - others

    done = caddis("launch", "shop", "--no-deploy")
    assert done.code == 0, done.err
    written = fly_toml(tmp_path / "shop")
    assert app_names(caddis_dev) - others == {written["app"]}
    assert before <= {written["app"]}
    assert written["kill_signal"] == "SIGTERM"  # of the Dockerfile that launch writes: it was not taken for another's
    assert secret_names(caddis_dev, written["app"]) == {"SECRET_KEY"}
    assert list((tmp_path / ".config" / "caddisfly" / "launches").iterdir()) == []


def test_a_template_is_cloned_and_launched(caddis: Caddis, tmp_path: Path) -> None:
    template = tmp_path / "template"
    project(template, {**projects.FASTAPI, "fly.toml": 'app = "registry"\n'})
    git = ("git", "-C", str(template), "-c", "user.name=a", "-c", "user.email=a@b.c")
    for words in (("init", "-q", "-b", "main"), ("add", "."), ("commit", "-qm", "one")):
        subprocess.run([*git, *words], check=True)
    flags = ("--from", f"file://{template}", "--into", "mine", "--no-deploy", "--yes")
    done = caddis("launch", *flags)
    assert done.code == 0, done.err
    assert fly_toml(tmp_path / "mine")["app"].startswith("registry-")  # the template's name is somebody else's
    assert caddis("launch", *flags).code == 0  # it is there already
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("")
    full = caddis("launch", *flags[:3], "other", "--yes")
    assert full.code == 1
    assert "Error: other is not empty" in full.err


def test_a_repository_on_github_gets_a_workflow(caddis: Caddis, tmp_path: Path) -> None:
    config = '[remote "origin"]\n\turl = git@github.com:me/shop.git\n'
    project(tmp_path / "shop", {**projects.FASTAPI, ".git/config": config, ".git/HEAD": "ref: refs/heads/trunk\n"})
    assert caddis("launch", "shop", "--no-deploy", "--no-github-workflow").code == 0
    assert not (tmp_path / "shop" / ".github").exists()
    done = caddis("launch", "shop", "--no-deploy")
    assert done.code == 0, done.err
    text = (tmp_path / "shop" / ".github" / "workflows" / "caddis-deploy.yml").read_text()
    assert "branches: [trunk]" in text
    assert "caddis tokens create deploy -a shop | gh secret set CADDIS_API_TOKEN" in done.err
