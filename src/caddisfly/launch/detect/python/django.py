"""Django."""

from __future__ import annotations

import re

from caddisfly.launch.detect.findings import ENTRY, MANIFEST, NAMED, Evidence, File, Framework, Recipe, evidence
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.python import packages as python
from caddisfly.launch.detect.python.image import GUNICORN, IGNORED, Image
from caddisfly.launch.detect.python.packages import Packages
from caddisfly.launch.detect.python.services import services
from caddisfly.launch.detect.settings import (
    GUNICORN_STOP,
    Default,
    Secret,
    Service,
    as_command,
    console,
    env,
    mount,
    process,
    release,
    settings,
    static,
    web,
)
from caddisfly.launch.detect.versions import Interpreters

PORT = 8000
_MIGRATE = "python manage.py migrate --noinput"
_READS_KEY = r"^SECRET_KEY\s*=\s*(?:os\.environ(?:\.get)?|os\.getenv|env(?:\.str)?|config)[\[(]\s*['\"](\w+)['\"]"
_SQLITE = "sqlite:////data/db.sqlite3"


class _Project:
    """Where a project keeps its parts."""

    def __init__(self, folder: Folder) -> None:
        found = list(folder.sources(".py"))
        self.wsgi = [path for path in found if path.endswith("/wsgi.py")]
        self.asgi = [path for path in found if path.endswith("/asgi.py")]
        self.settings = [path for path in found if re.search(r"/settings(/\w+)?\.py$", path)]
        self.celery = next((path for path in found if path.endswith("/celery.py")), "")
        self._texts = {path: folder.text(path) for path in self.settings}
        said = re.search(r"DJANGO_SETTINGS_MODULE['\"],\s*['\"]([\w.]+)", folder.text("manage.py"))
        self.package = said[1].partition(".")[0] if said else ""

    def value(self, expression: str) -> str:
        """The first group of what is found in the settings, empty when nothing is."""
        for text in self._texts.values():
            match = re.search(expression, text, re.MULTILINE)
            if match:
                return match[1]
        return ""

    def says(self, expression: str) -> bool:
        return any(re.search(expression, text, re.MULTILINE) for text in self._texts.values())

    def module(self, paths: list[str]) -> str:
        """The one beside the settings that manage.py names."""
        best = next((path for path in paths if path.startswith(f"{self.package}/")), paths[0])
        return best.removesuffix(".py").replace("/", ".")


def _look(folder: Folder) -> tuple[Evidence, ...]:
    packages = python.read(folder)
    manage = folder.has("manage.py") and folder.says("manage.py", "django|DJANGO")
    listed = packages.has("django")
    if not (listed or manage):
        return ()
    return evidence(
        (manage, "manage.py", ENTRY),
        (listed, packages.where("django"), NAMED),
        (packages.manifest, packages.manifest, MANIFEST),
    )


def _cook(folder: Folder, local: Interpreters) -> Recipe:
    packages = python.read(folder)
    project = _Project(folder)
    version, doubt = python.version(folder, local)
    start, extra, review = _start(packages, project)
    needs: list[Default | Secret | Service] = list(services(packages))
    kinds = {one.kind for one in needs if isinstance(one, Service)}
    sqlite = not kinds & {"postgres", "mysql"} and project.says(r"sqlite3")
    reads_url = packages.has("django-environ", "dj-database-url", "environs")
    defaults: list[Default] = [
        *web(PORT, "the port that Django's documentation uses"),
        env("PORT", PORT, "the port that the app listens on"),
        console("python /code/manage.py shell"),
    ]
    if "gunicorn" in start:
        defaults.append(GUNICORN_STOP)
    prepare: list[str] = []
    key = project.value(_READS_KEY) or "SECRET_KEY"
    if project.says(r"^[ \t]*STATIC_ROOT\s*="):
        prepare.append(f"{key}=only-for-the-build DATABASE_URL=sqlite:// python manage.py collectstatic --noinput")
        root = project.value(r"^[ \t]*STATIC_ROOT\s*=.*?['\"]/?([\w./-]+?)/?['\"]") or "static"
        url = "/" + project.value(r"^[ \t]*STATIC_URL\s*=\s*['\"]/?([\w/-]*?)/?['\"]").strip("/")
        path = "/" + "static/" if url == "/" else f"{url}/"
        defaults.append(
            static(f"/code/{root.split('/')[-1]}", path, "collected at build; the proxy serves them itself")
        )
    if kinds & {"postgres", "mysql"}:
        defaults.append(release(_MIGRATE, "migrations run once before each deploy"))
        if not reads_url:
            review.append("the settings do not read DATABASE_URL: use dj-database-url or django-environ")
    if sqlite:
        start = ("sh", "-c", f"{_MIGRATE} && exec {as_command(start)}")
        defaults.append(mount("data", "/data", "SQLite is a file, and only a volume keeps files"))
        defaults.append(env("DATABASE_URL", _SQLITE, "where the volume is"))
        if not reads_url:
            review.append("the settings keep SQLite beside the source, where a deploy loses it: put it under /data")
    if packages.has("celery"):
        app = (project.celery.rpartition("/")[0] or project.package or "app").replace("/", ".")
        defaults.append(process("app", as_command(start), "answers requests"))
        defaults.append(process("celery", f"celery -A {app} worker -l info", packages.where("celery")))
    review += _ambiguous(project)
    notes = [doubt] if doubt else []
    if project.says(r"^SECRET_KEY\s*=\s*['\"]"):
        notes.append("SECRET_KEY stands in the settings: read it from the environment, where it is a secret")
    if project.says(r"^ALLOWED_HOSTS\s*=\s*\[\s*\]"):
        notes.append("ALLOWED_HOSTS is empty: Django answers 400 until the name of the app is in it")
    image = Image(
        version=version,
        packages=packages,
        start=start,
        port=PORT,
        directory="/code",
        extra=extra,
        prepare=tuple(prepare),
        writable=("/data",) if sqlite else (),
    )
    return Recipe(
        runtime="Python",
        version=version,
        start=start,
        settings=settings(defaults, Secret(key, "Django signs sessions with it; the settings must read it"), needs),
        files=(File("Dockerfile", image.dockerfile(folder)),),
        ignored=(*IGNORED, "**/*.sqlite3", "**/*.sqlite3-journal"),
        review=tuple(review),
        notes=tuple(notes),
    )


def _start(packages: Packages, project: _Project) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """The server, what must be installed for it, and what to look at."""
    gunicorn = ("gunicorn", "--bind", f"0.0.0.0:{PORT}", "--workers", "2")
    extra = () if packages.has("gunicorn") else (GUNICORN,)
    if project.asgi and packages.has("uvicorn"):
        target = f"{project.module(project.asgi)}:application"
        return (*gunicorn, "--worker-class", "uvicorn.workers.UvicornWorker", target), extra, []
    if project.asgi and packages.has("daphne"):
        return ("daphne", "-b", "0.0.0.0", "-p", str(PORT), f"{project.module(project.asgi)}:application"), (), []
    if project.wsgi:
        return (*gunicorn, project.module(project.wsgi)), extra, []
    why = "there is neither wsgi.py nor asgi.py, so this is Django's development server: not for real traffic"
    return ("python", "manage.py", "runserver", f"0.0.0.0:{PORT}"), (), [why]


def _ambiguous(project: _Project) -> list[str]:
    found = []
    for what, paths in (("wsgi.py", project.wsgi), ("asgi.py", project.asgi)):
        if len(paths) > 1:
            found.append(f"there are several {what} ({', '.join(paths)}): see that the right one is started")
    modules = [path for path in project.settings if not path.endswith("/__init__.py")]
    if len(modules) > 1:
        found.append(f"there are several settings ({', '.join(modules)}): set DJANGO_SETTINGS_MODULE in env")
    return found


FRAMEWORK = Framework("django", "Django", _look, _cook, rich=True)
