"""The fifteen folders of the reference, L1 to L15, and what comes out of each."""

from __future__ import annotations

from pathlib import Path

from caddisfly.launch.detect import Detection
from tests.launch.detect import projects
from tests.launch.detect.projects import found


def kinds(one: Detection) -> set[str]:
    return {service.kind for service in one.recipe.settings.services}


def test_l1_fastapi_with_pip(tmp_path: Path) -> None:
    one = found(tmp_path, projects.FASTAPI)
    assert one.chosen.framework.name == "fastapi"
    assert one.chosen.reasons == "found fastapi in requirements.txt, main.py that imports fastapi"
    assert one.recipe.settings.port == 8000
    assert one.recipe.start[:2] == ("fastapi", "run")
    assert "RUN pip install -r requirements.txt" in dockerfile(one)


def test_l2_flask_in_a_uv_project(tmp_path: Path) -> None:
    one = found(tmp_path, projects.FLASK_UV)
    assert one.chosen.framework.name == "flask"
    assert one.recipe.version is not None
    assert (one.recipe.version.value, one.recipe.version.origin) == ("3.12", "requires-python in pyproject.toml")
    assert one.recipe.settings.port == 8080
    assert one.recipe.start == ("gunicorn", "--bind", "0.0.0.0:8080", "--workers", "2", "app:app")
    assert "uv sync --frozen --no-dev" in dockerfile(one)
    assert "gunicorn==" in dockerfile(one)


def test_l3_flask_with_pip_gets_a_server_for_production(tmp_path: Path) -> None:
    files = {"app.py": "from flask import Flask\napp = Flask(__name__)\n", "requirements.txt": "Flask==3.0\n"}
    one = found(tmp_path, files)
    assert one.chosen.framework.name == "flask"
    assert one.recipe.settings.port == 8080
    assert one.recipe.start[0] == "gunicorn"
    assert one.recipe.review == ()


def test_l4_django_with_postgres(tmp_path: Path) -> None:
    one = found(tmp_path, projects.DJANGO)
    assert one.chosen.framework.name == "django"
    assert one.recipe.settings.port == 8000
    assert one.recipe.start == ("gunicorn", "--bind", "0.0.0.0:8000", "--workers", "2", "proj.wsgi")
    assert one.recipe.settings.get("deploy", "release_command") == "python manage.py migrate --noinput"
    assert kinds(one) == {"postgres"}
    assert [secret.name for secret in one.recipe.settings.secrets] == ["SECRET_KEY"]
    assert one.recipe.review == ()


def test_l5_streamlit_with_poetry(tmp_path: Path) -> None:
    one = found(tmp_path, projects.STREAMLIT)
    assert one.chosen.framework.name == "streamlit"
    assert one.recipe.version is not None
    assert one.recipe.version.value == "3.11"
    assert one.recipe.settings.port == 8501
    assert one.recipe.start[:3] == ("streamlit", "run", "dash.py")
    assert "poetry install --only main --no-root" in dockerfile(one)


def test_l6_python_without_a_framework_is_to_be_reviewed(tmp_path: Path) -> None:
    one = found(tmp_path, projects.NUMPY)
    assert one.chosen.framework.name == "python"
    assert one.recipe.settings.port == 8080
    assert one.recipe.settings.get("env", "PORT") == "8080"
    assert one.recipe.start == ("gunicorn", "--bind", "0.0.0.0:8080", "app:app")
    assert len(one.recipe.review) == 1
    assert "is a guess" in one.recipe.review[0]


def test_l7_a_pyproject_without_dependencies_does_not_end_the_search(tmp_path: Path) -> None:
    one = found(tmp_path, projects.RUFF_AND_FASTAPI)
    assert one.chosen.framework.name == "fastapi"
    assert one.recipe.settings.port == 8000
    assert one.recipe.start[:2] == ("fastapi", "run")
    assert "'fastapi-cli[standard]==" in dockerfile(one), "fastapi alone brings no `fastapi run`"


def test_l8_next_with_postgres(tmp_path: Path) -> None:
    one = found(tmp_path, projects.NEXT)
    assert one.chosen.framework.name == "next"
    assert one.recipe.settings.port == 3000
    assert one.recipe.start == ("next", "start"), "the script start itself, without npm between it and its signals"
    assert kinds(one) == {"postgres"}
    assert "RUN npm ci --include=dev" in dockerfile(one)


def test_l9_vite_without_a_script_is_built_and_served_as_files(tmp_path: Path) -> None:
    one = found(tmp_path, projects.VITE)
    assert one.chosen.framework.name == "vite"
    assert one.recipe.settings.port == 8080
    assert "npx vite build" in dockerfile(one)
    assert "COPY --from=build /app/dist /usr/share/nginx/html" in dockerfile(one)


def test_l10_go(tmp_path: Path) -> None:
    one = found(tmp_path, projects.GO)
    assert one.chosen.framework.name == "go"
    assert one.recipe.settings.port == 8080
    assert one.recipe.settings.get("build", "args", "GO_VERSION") == "1.23"
    assert one.recipe.start == ("run-app",)
    assert one.recipe.review == ()


def test_l11_a_dockerfile_is_used_as_it_is(tmp_path: Path) -> None:
    one = found(tmp_path, projects.OWN_DOCKERFILE)
    assert one.chosen.framework.name == "dockerfile"
    assert one.recipe.settings.port == 5000
    mounts = one.recipe.settings.get("mounts")
    assert [(mount["source"], mount["destination"]) for mount in mounts] == [("data", "/var/data")]
    assert one.changes == ()


def test_l12_rails_with_postgres(tmp_path: Path) -> None:
    one = found(tmp_path, projects.RAILS)
    assert one.chosen.framework.name == "rails"
    assert one.recipe.settings.port == 3000
    assert one.recipe.settings.get("deploy", "release_command") == "./bin/rails db:prepare"
    assert kinds(one) == {"postgres"}
    assert one.recipe.start[:2] == ("./bin/rails", "server")
    checks = one.recipe.settings.get("http_service", "checks")
    assert (checks[0]["path"], checks[0]["headers"]) == ("/up", {"X-Forwarded-Proto": "https"})
    key = one.recipe.settings.secrets[0]
    assert (key.name, key.source, key.file) == ("RAILS_MASTER_KEY", "file", "config/master.key")


def test_l13_deno(tmp_path: Path) -> None:
    one = found(tmp_path, projects.DENO)
    assert one.chosen.framework.name == "deno"
    assert one.recipe.settings.port == 8080
    assert one.recipe.settings.get("processes", "app") == "run -A ./server.ts"
    assert one.recipe.version is not None
    assert one.recipe.version.value == "2.4.5"


def test_l14_java(tmp_path: Path) -> None:
    one = found(tmp_path, projects.MAVEN)
    assert one.chosen.framework.name == "java"
    assert one.recipe.settings.port == 8080
    assert one.recipe.start == ("java", "-jar", "app.jar")
    assert one.recipe.version is not None
    assert one.recipe.version.value == "21"


def test_l15_compose_with_a_dockerfile(tmp_path: Path) -> None:
    one = found(tmp_path, projects.COMPOSE)
    assert one.chosen.framework.name == "dockerfile"
    assert one.chosen.reasons == "found Dockerfile, what to build in compose.yaml"
    assert one.recipe.settings.port == 8080
    assert one.recipe.start == (), "what the image says"
    assert kinds(one) == {"postgres"}
    assert one.recipe.settings.get("env", "GREETING") == "hello"
    assert one.recipe.settings.get("env", "DATABASE_URL") is None, "a secret, and the service brings it"


def dockerfile(one: Detection) -> str:
    return next(change.after for change in one.changes if change.path == "Dockerfile")
