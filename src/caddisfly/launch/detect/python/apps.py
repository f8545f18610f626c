"""FastAPI, Flask and Streamlit: a package by name, a file that makes the app, and a server for real traffic."""

from __future__ import annotations

import re
from collections.abc import Callable

from caddisfly.launch.detect.findings import FITS, MANIFEST, NAMED, Evidence, File, Framework, Recipe, evidence
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.python import packages as python
from caddisfly.launch.detect.python.image import FASTAPI_CLI, GUNICORN, IGNORED, Image, import_path, module
from caddisfly.launch.detect.python.services import services
from caddisfly.launch.detect.settings import GUNICORN_STOP, Default, check, settings, web
from caddisfly.launch.detect.versions import Interpreters

_FASTAPI_LOOKS_FOR = ("main.py", "app.py", "api.py", "app/main.py", "app/app.py", "app/api.py")
_ENTRIES = ("wsgi.py", "app.py", "main.py", "server.py", "application.py")


def _looking(package: str) -> Callable[[Folder], tuple[Evidence, ...]]:
    def look(folder: Folder) -> tuple[Evidence, ...]:
        packages = python.read(folder)
        if not packages.has(package):
            return ()
        source = folder.source_saying(rf"^[ \t]*(import|from)\s+{package}\b", ".py")
        return evidence(
            (True, packages.where(package), NAMED),
            (True, packages.manifest or packages.found[package][0], MANIFEST),
            (source, f"{source} that imports {package}", FITS),
        )

    return look


def _entry(folder: Folder, constructor: str) -> tuple[str, str]:
    """The file that makes the app and the name it has there. Known names come before others."""
    made = rf"^(\w+)\s*(?::\s*[\w.]+\s*)?=\s*(?:\w+\.)?{constructor}\("
    factory = r"^(?:async\s+)?def\s+((?:create|make)_app)\s*\("
    paths = sorted(folder.sources(".py"), key=lambda path: (path not in _ENTRIES, path.count("/"), path))
    for expression, form in ((made, "{}"), (factory, "{}()")):
        for path in paths:
            match = re.search(expression, folder.text(path), re.MULTILINE)
            if match:
                return path, form.format(match[1])
    return "", ""


def _fastapi(folder: Folder, local: Interpreters) -> Recipe:
    packages = python.read(folder)
    path, name = _entry(folder, "FastAPI")
    has_cli = packages.has("fastapi-cli") or re.search(r"\b(standard|all)\b", packages.extras("fastapi"))
    review = [] if path else ["no file with `app = FastAPI()` was found: name it in the CMD of the Dockerfile"]
    extra: tuple[str, ...] = ()
    factory = name.endswith("()")
    if (factory or (packages.has("uvicorn") and not has_cli)) and path:
        target = f"{module(path)}:{name.removesuffix('()')}"
        start = ("uvicorn", target, "--host", "0.0.0.0", "--port", "8000", *(["--factory"] if factory else []))
        extra = () if packages.has("uvicorn") or has_cli else (FASTAPI_CLI,)
    else:
        named = [path] if path and path not in _FASTAPI_LOOKS_FOR else []
        start = ("fastapi", "run", *named, "--host", "0.0.0.0", "--port", "8000")
        extra = () if has_cli else (FASTAPI_CLI,)
    port = web(8000, "the port of `fastapi run`")
    return _recipe(folder, local, start, port, extra=extra, review=review, entry=path)


def _flask(folder: Folder, local: Interpreters) -> Recipe:
    packages = python.read(folder)
    path, name = _entry(folder, "Flask")
    wsgi = folder.says("wsgi.py", r"^from\s+\S+\s+import\s+.*\b(app|application)\b|^(app|application)\s*=")
    review: list[str] = []
    if wsgi:
        path = "wsgi.py"
        name = "application" if folder.says("wsgi.py", r"\bapplication\b") else "app"
    elif not path:
        path = folder.first("app.py", "main.py") or "app.py"
        name = "app"
        review.append(f"no file with `app = Flask(...)` was found: {module(path)}:app in the CMD is a guess")
    start = ("gunicorn", "--bind", "0.0.0.0:8080", "--workers", "2", f"{module(path)}:{name}")
    extra = () if packages.has("gunicorn") else (GUNICORN,)
    port = [*web(8080, "the port that gunicorn is told"), GUNICORN_STOP]
    return _recipe(folder, local, start, port, extra=extra, review=review, entry=path)


def _streamlit(folder: Folder, local: Interpreters) -> Recipe:
    found = [path for path in folder.sources(".py") if folder.says(path, r"^[ \t]*(import|from)\s+streamlit\b")]
    known = next((path for path in ("streamlit_app.py", "app.py", "main.py") if path in found), "")
    top = [path for path in found if "/" not in path]
    path = known or (top or found or ["app.py"])[-1]
    review = [] if found else ["no file imports streamlit: name the right one in the CMD of the Dockerfile"]
    start = ("streamlit", "run", path, "--server.address=0.0.0.0", "--server.port=8501", "--server.headless=true")
    port = [
        *web(8501, "Streamlit's port"),
        check("/_stcore/health", "Streamlit answers there as soon as it can serve"),
    ]
    return _recipe(folder, local, start, port, review=review)


def _recipe(
    folder: Folder,
    local: Interpreters,
    start: tuple[str, ...],
    port: list[Default],
    *,
    extra: tuple[str, ...] = (),
    review: list[str],
    entry: str = "",
) -> Recipe:
    packages = python.read(folder)
    version, doubt = python.version(folder, local)
    wanted = settings(port, services(packages))
    image = Image(
        version=version,
        packages=packages,
        start=start,
        port=wanted.port or 8080,
        extra=extra,
        environment=() if packages.installed else import_path(entry),
    )
    return Recipe(
        runtime="Python",
        version=version,
        start=start,
        settings=wanted,
        files=(File("Dockerfile", image.dockerfile(folder)),),
        ignored=IGNORED,
        review=tuple(review),
        notes=(doubt,) if doubt else (),
    )


FASTAPI = Framework("fastapi", "FastAPI", _looking("fastapi"), _fastapi)
FLASK = Framework("flask", "Flask", _looking("flask"), _flask)
STREAMLIT = Framework("streamlit", "Streamlit", _looking("streamlit"), _streamlit)
