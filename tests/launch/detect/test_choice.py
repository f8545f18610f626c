"""Which framework wins, what is said when it is not clear, and what a project says for itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from caddisfly.launch.detect import Detection, Folder, Interpreters, NoInterpreters, detect
from caddisfly.launch.detect.catalog import CATALOG
from caddisfly.launch.detect.javascript import cooking
from caddisfly.model.errors import FailedPrecondition, InvalidArgument
from tests.launch.detect import projects
from tests.launch.detect.projects import found, package, project


def dockerfile(one: Detection) -> str:
    return next(change.after for change in one.changes if change.path == "Dockerfile")


def test_a_package_json_for_style_sheets_does_not_make_django_a_node_app(tmp_path: Path) -> None:
    """Fly's order would say so, too, but its scanner for Laravel or Rails would lose to one that stands before."""
    tailwind = package(scripts={"start": "tailwindcss -i in.css --watch"}, devDependencies={"tailwindcss": "3"})
    one = found(tmp_path, {**projects.DJANGO, "package.json": tailwind})
    assert one.chosen.framework.name == "django"
    assert one.tied == ()


def test_the_best_wins_whatever_stands_first_in_the_catalog(tmp_path: Path) -> None:
    """A site's index.html and package.json with a script beside a Go program with its own."""
    one = found(tmp_path, {**projects.GO, "index.html": "<!doctype html>"})
    assert one.chosen.framework.name == "go"
    assert [other.framework.name for other in one.others] == ["static"]


def test_a_tie_is_said_and_the_catalog_decides(tmp_path: Path) -> None:
    one = found(tmp_path, {"requirements.txt": "fastapi[standard]\nflask\n"})
    assert one.chosen.framework.name == "fastapi"
    assert [other.framework.name for other in one.tied] == ["flask"]


def test_the_source_decides_between_two_packages(tmp_path: Path) -> None:
    files = {"requirements.txt": "fastapi\nflask\n", "app.py": "from flask import Flask\napp = Flask(__name__)\n"}
    one = found(tmp_path, files)
    assert one.chosen.framework.name == "flask"
    assert one.tied == ()


def test_a_named_framework_is_taken(tmp_path: Path) -> None:
    one = found(tmp_path, {"requirements.txt": "fastapi[standard]\nflask\n"}, framework="Flask")
    assert one.chosen.framework.name == "flask"
    assert one.tied == ()
    assert one.forced


NEEDS_ITS_MANIFEST = {one.name for one in cooking.FRAMEWORKS} | {"redwood", "dockerfile"}


@pytest.mark.parametrize("framework", CATALOG, ids=lambda framework: framework.name)
def test_a_named_framework_without_any_evidence_has_a_recipe_or_says_what_is_missing(
    tmp_path: Path, framework: object
) -> None:
    name = framework.name  # type: ignore[attr-defined]
    if name in NEEDS_ITS_MANIFEST:
        with pytest.raises((FailedPrecondition, InvalidArgument), match="there is no") as caught:
            found(tmp_path, {"notes.txt": "hello\n"}, framework=name)
        assert caught.value.next
    else:
        one = found(tmp_path, {"notes.txt": "hello\n"}, framework=name)
        assert one.chosen.evidence == ()
        assert one.recipe.settings.port


def test_an_unknown_framework_gets_what_was_meant(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        found(tmp_path, {}, framework="djago")
    assert caught.value.what == "there is no framework 'djago'"
    assert caught.value.next == "did you mean django?"
    assert "rails" in caught.value.why


def test_an_empty_folder_gets_an_answer_and_no_guess(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        found(tmp_path, {})
    assert caught.value.what == f"no app found in {tmp_path}"
    assert caught.value.why == "there is nothing in it"
    assert "Dockerfile" in caught.value.next


def test_a_folder_of_other_things_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        found(tmp_path, {"notes.txt": "", "data.csv": "", ".git/config": ""})
    assert caught.value.why == "it holds data.csv, notes.txt, and none of that tells how to build or run it"


def test_an_app_one_directory_down_is_pointed_at(tmp_path: Path) -> None:
    files = {f"backend/{path}": content for path, content in projects.FASTAPI.items()}
    with pytest.raises(FailedPrecondition) as caught:
        found(tmp_path, {**files, "README.md": "# shop"})
    assert caught.value.next == "backend/ looks like FastAPI: name that directory"


def test_a_broken_manifest_is_named_when_nothing_was_found(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        found(tmp_path, {"package.json": "{,}"})
    assert "package.json is not JSON" in caught.value.why


def test_a_dockerfile_beats_a_language(tmp_path: Path) -> None:
    one = found(tmp_path, {**projects.GO, "Dockerfile": "FROM golang:1\nEXPOSE 9000/tcp\n"})
    assert one.chosen.framework.name == "dockerfile"
    assert one.recipe.settings.port == 9000
    assert one.changes == ()


def test_a_containerfile_is_named_in_fly_toml(tmp_path: Path) -> None:
    one = found(tmp_path, {"Containerfile": "FROM alpine\n"})
    assert one.recipe.settings.get("build", "dockerfile") == "Containerfile"
    assert "0.0.0.0:8080" in one.recipe.notes[0]


def test_django_with_a_dockerfile_keeps_it_and_still_says_what_it_cannot(tmp_path: Path) -> None:
    one = found(tmp_path, {**projects.DJANGO, "Dockerfile": "FROM python:3.13\nEXPOSE 7000\n"})
    assert one.chosen.framework.name == "django"
    assert one.changes == ()
    assert one.recipe.settings.port == 7000
    assert one.recipe.settings.get("env", "PORT") == "7000"
    assert one.recipe.settings.get("statics") is None, "a path in an image that is not ours"
    assert one.recipe.settings.get("deploy", "release_command") == "python manage.py migrate --noinput"
    assert [secret.name for secret in one.recipe.settings.secrets] == ["SECRET_KEY"]
    assert any("Dockerfile is used as it is" in note for note in one.recipe.notes)


def test_a_named_framework_shows_a_new_dockerfile_as_a_difference(tmp_path: Path) -> None:
    one = found(tmp_path, {**projects.DJANGO, "Dockerfile": "FROM python:3.13\n"}, framework="django")
    change = next(change for change in one.changes if change.path == "Dockerfile")
    assert change.before == "FROM python:3.13\n"
    assert "-FROM python:3.13\n" in change.diff()
    assert "+FROM python:${PYTHON_VERSION}-slim\n" in change.diff()
    assert (tmp_path / "Dockerfile").read_text() == "FROM python:3.13\n", "nothing is written by looking"


def test_what_is_already_as_it_would_be_is_no_change(tmp_path: Path) -> None:
    first = found(tmp_path, projects.GO)
    for change in first.changes:
        (tmp_path / change.path).write_text(change.after)
    again = detect(Folder(tmp_path.resolve()), framework="go", local=NoInterpreters())
    assert again.changes == ()


def test_an_ignore_file_that_hides_what_is_copied_is_said(tmp_path: Path) -> None:
    one = found(tmp_path, {**projects.GO, ".dockerignore": "go.sum\n"})
    assert [change.path for change in one.changes] == ["Dockerfile"]
    assert one.recipe.notes == (".dockerignore leaves out go.sum, which the Dockerfile copies: add !go.sum to it",)


def test_a_procfile_says_what_runs(tmp_path: Path) -> None:
    procfile = """
        # processes
        web: gunicorn shop:app --bind 0.0.0.0:$PORT
        worker: python worker.py
        release: python manage.py migrate
    """
    one = found(tmp_path, {"requirements.txt": "numpy\ngunicorn\n", "Procfile": procfile})
    settings = one.recipe.settings
    assert one.recipe.review == (), "the Procfile says how it starts"
    assert settings.get("processes", "web") == "sh -c 'exec gunicorn shop:app --bind 0.0.0.0:$PORT'"
    assert settings.get("processes", "worker") == "python worker.py"
    assert settings.get("deploy", "release_command") == "python manage.py migrate"
    assert settings.get("http_service", "processes") == ["web"]
    assert settings.get("env", "PORT") == "8080"


def test_a_procfile_without_web_serves_nothing(tmp_path: Path) -> None:
    one = found(tmp_path, {"requirements.txt": "numpy\n", "bot.py": "", "Procfile": "worker: python bot.py\n"})
    assert one.recipe.settings.port is None
    assert one.recipe.settings.document()["processes"] == {"worker": "python bot.py"}


def test_a_procfile_alone_is_nothing_to_build(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition):
        found(tmp_path, {"Procfile": "web: ./server\n"})


def test_celery_is_a_group_of_its_own(tmp_path: Path) -> None:
    files = {**projects.DJANGO, "proj/celery.py": "", "requirements.txt": "django\ngunicorn\ncelery\nredis\n"}
    one = found(tmp_path, files)
    assert one.recipe.settings.get("processes", "celery") == "celery -A proj worker -l info"
    assert one.recipe.settings.get("processes", "app") == "gunicorn --bind 0.0.0.0:8000 --workers 2 proj.wsgi"
    assert {service.kind for service in one.recipe.settings.services} == {"redis"}


def test_django_on_sqlite_migrates_where_its_volume_is(tmp_path: Path) -> None:
    files = {
        **projects.DJANGO,
        "requirements.txt": "django\ngunicorn\n",
        "proj/settings.py": "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3'}}\n",
    }
    one = found(tmp_path, files)
    assert one.recipe.settings.get("mounts")[0]["destination"] == "/data"
    assert one.recipe.settings.get("deploy", "release_command") is None, "a release Machine has no volume"
    assert one.recipe.start[2].endswith("&& exec gunicorn --bind 0.0.0.0:8000 --workers 2 proj.wsgi")
    assert "under /data" in one.recipe.review[0]


def test_a_django_project_with_several_settings_is_to_be_reviewed(tmp_path: Path) -> None:
    files = {**projects.DJANGO, "proj/settings/dev.py": "", "proj/settings/prod.py": ""}
    del files["proj/settings.py"]
    one = found(tmp_path, files)
    assert any("several settings" in text for text in one.recipe.review)


def test_prisma_on_sqlite_keeps_its_command_and_its_volume(tmp_path: Path) -> None:
    files = {
        "package.json": package(
            scripts={"start": "remix-serve build/index.js", "build": "remix build"},
            dependencies={"@remix-run/node": "2", "@prisma/client": "5"},
            devDependencies={"prisma": "5"},
        ),
        "package-lock.json": "{}",
        "prisma/schema.prisma": 'generator c {\n  provider = "prisma-client-js"\n}\n'
        'datasource db {\n  provider = "sqlite"\n  url = env("DATABASE_URL")\n}\n',
    }
    one = found(tmp_path, files)
    assert one.recipe.start[:2] == ("sh", "-c")
    assert one.recipe.start[2] == "npx prisma migrate deploy && exec remix-serve build/index.js"
    assert one.recipe.settings.get("env", "DATABASE_URL") == "file:///data/sqlite.db"
    assert "prune" not in dockerfile(one), "prisma is only for development there, and migrations need it"


def test_a_rails_initializer_that_wants_secrets_is_to_be_reviewed(tmp_path: Path) -> None:
    files = {**projects.RAILS, "config/initializers/stripe.rb": 'Stripe.api_key = ENV.fetch("STRIPE")\n'}
    one = found(tmp_path, files)
    assert one.recipe.review[0].startswith("config/initializers/stripe.rb reads ENV")


def test_the_value_of_a_key_is_nowhere_in_the_answer(tmp_path: Path) -> None:
    one = found(tmp_path, projects.RAILS)
    assert projects.RAILS["config/master.key"].strip() not in str(one.to_record())


def test_python_of_this_computer_is_asked_when_no_file_says(tmp_path: Path) -> None:
    class Asked(Interpreters):
        def version(self, program: str) -> str:
            return {"python3": "3.14.0rc2"}.get(program, "")

    one = found(tmp_path, projects.FASTAPI, local=Asked())
    assert one.recipe.version is not None
    assert (one.recipe.version.value, one.recipe.version.origin) == ("3.14-rc", "python3 of this computer")
    assert one.recipe.notes[0].startswith("TODO: Python 3.14-rc is not finished")


def test_an_interpreter_inside_the_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path, {"bin/python3": "#!/bin/sh\ntouch ../ran; echo Python 3.13.1\n"})
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert Interpreters(outside=tmp_path.resolve()).version("python3") == ""
    assert Interpreters(outside=(tmp_path / "elsewhere")).version("python3") == "3.13.1"


def test_an_app_of_one_file_named_otherwise_is_found(tmp_path: Path) -> None:
    files = {"requirements.txt": "flask\n", "src/shop/web.py": "import flask\n\nsite = flask.Flask(__name__)\n"}
    one = found(tmp_path, files)
    assert one.recipe.start[-1] == "shop.web:site"
    assert "PYTHONPATH=/app/src" in dockerfile(one)


def test_an_application_factory_is_called(tmp_path: Path) -> None:
    files = {"requirements.txt": "flask\n", "shop/__init__.py": "def create_app():\n    return None\n"}
    assert found(tmp_path, files).recipe.start[-1] == "shop:create_app()"


def test_uvicorn_serves_a_fastapi_without_its_command(tmp_path: Path) -> None:
    files = {"requirements.txt": "fastapi\nuvicorn\n", "shop/main.py": "from fastapi import FastAPI\napi = FastAPI()\n"}
    one = found(tmp_path, files)
    assert one.recipe.start == ("uvicorn", "shop.main:api", "--host", "0.0.0.0", "--port", "8000")
    assert "fastapi-cli" not in dockerfile(one)


def test_requirements_of_the_folder_itself_are_copied_first(tmp_path: Path) -> None:
    one = found(tmp_path, {"requirements.txt": "-e .\nflask\n", "setup.py": "", "app.py": "app = Flask(__name__)\n"})
    text = dockerfile(one)
    assert text.index("COPY . .") < text.index("pip install -r requirements.txt")


def test_requirements_that_include_others_bring_them(tmp_path: Path) -> None:
    files = {
        "requirements.txt": "-r requirements/base.txt\n-c limits.txt\n",
        "requirements/base.txt": "-r ../requirements.txt\nDjango[argon2]==5.1 ; python_version > '3'\n",
        "limits.txt": "asgiref<4\n",
    }
    one = found(tmp_path, files)
    assert one.chosen.framework.name == "django"
    assert "COPY requirements/base.txt ./requirements/base.txt" in dockerfile(one)
    assert "COPY limits.txt ./limits.txt" in dockerfile(one)


def test_psycopg_brings_its_library_unless_it_has_it(tmp_path: Path) -> None:
    flask = {"app.py": "app = Flask(__name__)\n"}
    assert "libpq5" in dockerfile(found(tmp_path / "a", {**flask, "requirements.txt": "flask\npsycopg\n"}))
    assert "libpq5" not in dockerfile(found(tmp_path / "b", {**flask, "requirements.txt": "flask\npsycopg[binary]\n"}))


def test_the_secret_of_django_has_the_name_that_its_settings_read(tmp_path: Path) -> None:
    files = {**projects.DJANGO, "proj/settings.py": "SECRET_KEY = os.environ['DJANGO_KEY']\nSTATIC_ROOT = 'out'\n"}
    one = found(tmp_path, files)
    assert [secret.name for secret in one.recipe.settings.secrets] == ["DJANGO_KEY"]
    assert "RUN DJANGO_KEY=only-for-the-build" in dockerfile(one)


def test_workspaces_are_there_before_they_are_installed(tmp_path: Path) -> None:
    files = {**projects.NODE, "package.json": package(scripts={"start": "node server.js"}, workspaces=["packages/*"])}
    text = dockerfile(found(tmp_path, files))
    assert text.index("COPY . .") < text.index("RUN npm ci")


@pytest.mark.parametrize(
    ("scripts", "start"),
    [
        ({"start": "node --max-old-space-size=900 server.js"}, ("node", "--max-old-space-size=900", "server.js")),
        ({"start": "NODE_ENV=production node server.js"}, ("npm", "run", "start")),
        ({"start": "node server.js", "prestart": "node migrate.js"}, ("npm", "run", "start")),
        ({"start": "node a.js & node b.js"}, ("npm", "run", "start")),
        ({"start": "nodemon server.js"}, ("node", "server.js")),
        ({"start": 'node "unfinished'}, ("npm", "run", "start")),
    ],
)
def test_a_start_script_is_started_itself_when_it_can_be(
    tmp_path: Path, scripts: dict[str, str], start: tuple[str, ...]
) -> None:
    one = found(tmp_path, {"package.json": package(scripts=scripts), "server.js": ""})
    assert one.recipe.start == start


def test_next_standalone_keeps_its_result_only(tmp_path: Path) -> None:
    one = found(tmp_path, {**projects.NEXT, "next.config.mjs": "export default { output: 'standalone' }\n"})
    assert one.recipe.start == ("node", "server.js")
    assert "COPY --from=build /app/.next/standalone /app" in dockerfile(one)
    assert "HOSTNAME=0.0.0.0" in dockerfile(one)


@pytest.mark.parametrize(
    ("lock", "install"),
    [
        ("bun.lockb", "bun install --frozen-lockfile"),
        ("pnpm-lock.yaml", "pnpm install --frozen-lockfile"),
        ("yarn.lock", "yarn install --frozen-lockfile"),
        ("package-lock.json", "npm ci"),
        ("", "npm install"),
    ],
)
def test_the_lock_file_says_the_packager(tmp_path: Path, lock: str, install: str) -> None:
    files = {"package.json": package(scripts={"start": "node server.js"}), "server.js": ""}
    assert f"RUN {install}" in dockerfile(found(tmp_path, {**files, lock: ""} if lock else files))


def test_a_go_program_below_cmd_is_built(tmp_path: Path) -> None:
    files = {
        "go.mod": "module example.com/shop\ngo 1.22\nrequire github.com/jackc/pgx/v5 v5.7.1\n",
        "cmd/migrate/main.go": "package main\n",
        "cmd/shop/main.go": "package main\n",
        "templates/index.html": "",
    }
    one = found(tmp_path, files)
    assert "-o /run-app ./cmd/shop" in dockerfile(one)
    assert "COPY templates ./templates" in dockerfile(one)
    assert [service.kind for service in one.recipe.settings.services] == ["postgres"]
    assert "there are several programs; ./cmd/shop is built, and not cmd/migrate" in one.recipe.review
    assert any("no go.sum" in text for text in one.recipe.review)


def test_rocket_is_told_where_to_listen(tmp_path: Path) -> None:
    settings = found(tmp_path, projects.RUST).recipe.settings
    assert (settings.get("env", "ROCKET_PORT"), settings.get("env", "ROCKET_ADDRESS")) == ("8080", "0.0.0.0")


def test_a_member_of_a_cargo_workspace_is_built(tmp_path: Path) -> None:
    files = {
        "Cargo.toml": '[workspace]\nmembers = ["crates/*"]\n',
        "Cargo.lock": "",
        "crates/core/src/lib.rs": "",
        "crates/web/Cargo.toml": '[package]\nname = "shop-web"\n',
        "crates/web/src/main.rs": "",
    }
    one = found(tmp_path, files)
    assert one.recipe.start == ("/usr/local/bin/shop-web",)
    assert "cargo build --release --locked --package shop-web --bin shop-web" in dockerfile(one)


def test_spring_boot_has_its_check_and_its_memory(tmp_path: Path) -> None:
    settings = found(tmp_path, projects.SPRING).recipe.settings
    assert settings.get("http_service", "checks")[0]["path"] == "/actuator/health"
    assert settings.get("env", "JAVA_TOOL_OPTIONS") == "-XX:MaxRAMPercentage=75"


def test_laravel_gets_what_its_example_says(tmp_path: Path) -> None:
    one = found(tmp_path, projects.LARAVEL)
    settings = one.recipe.settings
    assert {service.kind for service in settings.services} == {"postgres", "redis"}
    assert settings.get("env", "DB_CONNECTION") == "pgsql"
    assert settings.get("deploy", "release_command") == "php /var/www/html/artisan migrate --force"
    assert (settings.secrets[0].name, settings.secrets[0].source) == ("APP_KEY", "laravel")
    assert "COPY --from=assets /app/public/build ./public/build" in dockerfile(one)


def test_phoenix_brings_the_scripts_that_its_generator_would_write(tmp_path: Path) -> None:
    one = found(tmp_path, projects.PHOENIX)
    written = {change.path: change for change in one.changes}
    assert written["rel/overlays/bin/server"].executable
    assert "/app/bin/shop eval" in written["rel/overlays/bin/migrate"].after
    assert one.recipe.settings.get("deploy", "release_command") == "/app/bin/migrate"
    assert one.recipe.settings.get("kill_signal") == "SIGTERM"


def test_a_shell_script_of_phoenix_that_is_there_stays(tmp_path: Path) -> None:
    files = {**projects.PHOENIX, "rel/overlays/bin/server": "mine\n", "rel/overlays/bin/migrate": "mine\n"}
    assert {change.path for change in found(tmp_path, files).changes} == {"Dockerfile", ".dockerignore"}


def test_rails_with_sidekiq_has_a_group_for_it(tmp_path: Path) -> None:
    lock = projects.RAILS["Gemfile.lock"].replace("    rails (7.1.4)", "    rails (7.1.4)\n            sidekiq (7.3.0)")
    settings = found(tmp_path, {**projects.RAILS, "Gemfile.lock": lock}).recipe.settings
    assert settings.get("processes", "sidekiq") == "bundle exec sidekiq"
    assert {service.kind for service in settings.services} == {"postgres", "redis"}
