"""What detection says about fly.toml is what reading a fly.toml takes, strictly: it is written and read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.launch.detect import projects
from tests.launch.detect.projects import EVERY, Files, found

loading = pytest.importorskip("caddisfly.launch.config.loading")
edit = pytest.importorskip("caddisfly.launch.config.edit")

SQLITE = "env.DATABASE_URL"
"""Where a volume has the database, which is no secret, though other values of that name are."""
MORE: dict[str, Files] = {
    "a Dockerfile with a volume": projects.OWN_DOCKERFILE,
    "compose": projects.COMPOSE,
    "a Procfile": {**projects.NUMPY, "Procfile": "web: serve --port $PORT\nworker: work\nrelease: migrate\n"},
    "celery": {**projects.DJANGO, "requirements.txt": "django\ngunicorn\ncelery\nredis\n", "proj/celery.py": ""},
    "sqlite": {**projects.NODE, "package.json": projects.package(dependencies={"better-sqlite3": "11"})},
    "no service": {**projects.NUMPY, "Procfile": "worker: work\n"},
}


@pytest.mark.parametrize("name", [*EVERY, *MORE])
def test_it_can_be_written_and_read(tmp_path: Path, name: str) -> None:
    files = MORE.get(name) or EVERY[name][0]
    settings = found(tmp_path, files).recipe.settings
    text = edit.changed('app = "shop"\n', {one.path: one.value for one in settings.defaults})
    app = loading.text(text, directory=tmp_path)
    assert [one for one in app.warnings if one.key != SQLITE] == []
    served = app.http_service
    assert (served.internal_port if served else None) == settings.port
    assert loading.text(json.dumps({"app": "shop", **settings.document()}), name="fly.json", directory=tmp_path)
