"""Compose, ignore files, commands, and what a fly.toml is told."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from caddisfly.launch.build import ignore
from caddisfly.launch.detect import Detection, Folder, NoInterpreters, detect
from caddisfly.launch.detect.ignores import translated
from caddisfly.launch.detect.settings import Secret, as_command, env, postgres, settings, web
from caddisfly.model.errors import FailedPrecondition
from tests.launch.detect import projects
from tests.launch.detect.projects import found


def of_compose(root: Path, text: str, *, dockerfile: str = "FROM alpine\n", **more: str) -> Detection:
    return found(root, {"compose.yaml": text, "Dockerfile": dockerfile, **more})


def test_what_compose_says_beside_databases(tmp_path: Path) -> None:
    one = of_compose(
        tmp_path,
        """
        services:
          worker:
            build: .
            command: ["python", "worker.py", "--all"]
          web:
            build: {context: ., dockerfile: deploy/Dockerfile}
            command: python web.py --port $$PORT
            ports: ["80:5000"]
            environment: [MODE=fast, SECRET_KEY=abc, DB_HOST=db]
            volumes: ["uploads:/srv/uploads", "./src:/src"]
            cap_add: [NET_ADMIN]
          mailer:
            build: ./mailer
          db:
            image: docker.io/library/postgres:16-alpine
          cache:
            image: valkey/valkey:8
          admin:
            image: adminer
        """,
        **{"deploy/Dockerfile": "FROM python:3.13\n"},
    )
    assert one.recipe.settings.get("build", "dockerfile") == "deploy/Dockerfile"
    assert one.recipe.settings.port == 5000
    assert one.recipe.settings.document()["env"] == {"MODE": "fast"}
    assert one.recipe.settings.get("processes", "worker") == "python worker.py --all"
    assert {service.kind for service in one.recipe.settings.services} == {"postgres", "redis"}
    mounts = one.recipe.settings.get("mounts")
    assert (mounts[0]["source"], mounts[0]["destination"]) == ("uploads", "/srv/uploads")
    notes = "\n".join(one.recipe.notes)
    for said in (
        "cap_add of web is not carried over",
        "mailer is built from mailer",
        "admin runs adminer",
        "SECRET_KEY of web",
    ):
        assert said in notes
    assert "abc" not in str(one.to_record()), "the secret itself"


def test_databases_of_compose_are_there_without_a_dockerfile_too(tmp_path: Path) -> None:
    text = """
        services:
          app: {build: ., command: uvicorn main:app --reload, ports: ["80:80"]}
          db: {image: "mariadb:11"}
    """
    one = found(tmp_path, {**projects.FASTAPI, "docker-compose.yml": text})
    assert one.chosen.framework.name == "fastapi"
    assert {service.kind for service in one.recipe.settings.services} == {"mysql"}
    assert one.recipe.settings.get("processes") is None
    assert one.recipe.settings.document().get("processes") is None, "a development server is not carried over"
    assert one.recipe.settings.port == 8000


def test_a_compose_file_of_images_runs_the_one_that_publishes_a_port(tmp_path: Path) -> None:
    text = """
        services:
          db: {image: "postgres:16"}
          blog: {image: "ghost:5", ports: [{target: 2368, published: 80}]}
    """
    one = found(tmp_path, {"compose.yaml": text})
    assert one.recipe.settings.get("build", "image") == "ghost:5"
    assert one.recipe.settings.port == 2368
    assert one.changes == ()


@pytest.mark.parametrize(
    "text", ["", "services:\n", "services: [a]\n", "services: {web: }\n", "- a\n", "services: 5\n"]
)
def test_a_compose_file_that_says_nothing_changes_nothing(tmp_path: Path, text: str) -> None:
    one = found(tmp_path, {**projects.GO, "compose.yaml": text})
    assert one.chosen.framework.name == "go"
    assert one.recipe.settings.services == ()


def test_a_gitignore_is_translated() -> None:
    lines = translated("# comment\n\n*.log\n/dist\nbuild/\ndocs/out\n!keep.log\n!.env\n[broken\n**/cache\n")
    assert lines == ["**/*.log", "dist", "**/build", "docs/out", "!**/keep.log", "**/cache"]


def test_a_lock_file_that_git_ignores_is_still_copied(tmp_path: Path) -> None:
    one = found(tmp_path, {**projects.NEXT, ".gitignore": "package-lock.json\n*.local\n"})
    text = next(change.after for change in one.changes if change.path == ".dockerignore")
    rules = ignore.parse(text.encode(), origin="")
    assert not rules.ignores("package-lock.json")
    assert rules.ignores("deep/notes.local")


def test_a_static_site_does_not_publish_what_is_beside_it(tmp_path: Path) -> None:
    one = found(tmp_path, {**projects.STATIC, ".env": "A=1", "deploy.key": "x"})
    text = next(change.after for change in one.changes if change.path == ".dockerignore")
    rules = ignore.parse(text.encode(), origin="")
    for path in (".env", ".git/config", "deploy.key", "fly.toml", "Dockerfile", "sub/.htpasswd"):
        assert rules.ignores(path), path
    assert not rules.ignores("index.html")
    assert not rules.ignores("style.css")


@pytest.mark.parametrize(
    ("command", "form"),
    [
        ("python worker.py", "python worker.py"),
        (["python", "a b.py"], "python 'a b.py'"),
        ("serve --port $PORT", "sh -c 'exec serve --port $PORT'"),
        ("migrate && serve", "sh -c 'migrate && serve'"),
        ("MODE=fast serve", "sh -c 'MODE=fast serve'"),
    ],
)
def test_a_command_gets_a_shell_only_if_it_needs_one(command: str | list[str], form: str) -> None:
    assert as_command(command) == form


def test_settings_keep_their_place_and_the_last_value() -> None:
    first = settings(web(8080, "one"), env("A", 1, "one"), Secret("KEY", "one"), postgres("first"))
    both = first.plus(*web(9000, "two"), postgres("second"))
    assert both.port == 9000
    assert [one.path for one in both.defaults] == [one.path for one in first.defaults]
    assert both.services[0].why == "first"
    assert both.document()["env"] == {"A": "1"}
    assert both.without(("http_service",)).port is None


def test_generated_secrets_are_long_and_never_the_same() -> None:
    assert len(Secret("A", "").generated()) == 128
    assert Secret("A", "").generated() != Secret("A", "").generated()
    assert Secret("A", "", "laravel").generated().startswith("base64:")
    assert Secret("A", "", "given").generated() == ""


def test_a_few_lines_of_aliases_do_not_become_gigabytes(tmp_path: Path) -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    bomb = "\n".join(lines)
    one = of_compose(
        tmp_path,
        f"{bomb}\nservices:\n  web:\n    build: .\n    image: *a11\n    command: *a11\n    ports: *a11\n"
        "    environment: {A: *a11, B: 1}\n    volumes: [*a11]\n",
    )
    assert one.recipe.settings.document()["env"] == {"B": "1"}


@pytest.mark.parametrize("path", ["config/cable.yml", "Gemfile", "go.mod", "requirements.txt", "mix.exs", "pom.xml"])
@pytest.mark.parametrize("content", ["\n" * 300_000, "production:\n" + "            x\n" * 20_000, " " * 300_000])
def test_a_file_made_to_waste_time_wastes_little(tmp_path: Path, path: str, content: str) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(content)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "rails").write_text("")
    begun = time.process_time()
    detect(Folder(tmp_path.resolve()), framework="rails", local=NoInterpreters())
    assert time.process_time() - begun < 3


def test_a_compose_file_over_directories_points_at_them(tmp_path: Path) -> None:
    text = "services:\n  web: {build: ./web}\n  proxy: {image: nginx}\n"
    with pytest.raises(FailedPrecondition) as caught:
        found(tmp_path, {"compose.yaml": text, "web/Dockerfile": "FROM alpine\n"})
    assert caught.value.next == "web/ has a Dockerfile: name that directory"
