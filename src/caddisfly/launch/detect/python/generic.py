"""Python without a framework that we know: it can be built, and how it starts is at best a guess, which is said."""

from __future__ import annotations

from caddisfly.launch.detect import procfile
from caddisfly.launch.detect.findings import FITS, MANIFEST, Evidence, File, Framework, Recipe, evidence
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.python import packages as python
from caddisfly.launch.detect.python.image import GUNICORN, IGNORED, Image, module
from caddisfly.launch.detect.python.services import services
from caddisfly.launch.detect.settings import env, settings, web
from caddisfly.launch.detect.versions import Interpreters

_PORT = 8080
_MANIFESTS = ("requirements.txt", "environment.yml", "poetry.lock", "Pipfile", "setup.py", "setup.cfg", "uv.lock")
_ENTRIES = ("main.py", "app.py", "server.py", "run.py", "bot.py", "__main__.py")


def _look(folder: Folder) -> tuple[Evidence, ...]:
    packages = python.read(folder)
    manifest = packages.manifest or folder.first(*_MANIFESTS)
    entry = folder.first(*_ENTRIES)
    has_script = not manifest and entry and folder.has("pyproject.toml")
    if not (manifest or has_script):
        return ()
    return evidence(
        (manifest, manifest, MANIFEST),
        (has_script, "pyproject.toml", FITS),
        (entry, entry, FITS),
    )


def _cook(folder: Folder, local: Interpreters) -> Recipe:
    packages = python.read(folder)
    version, doubt = python.version(folder, local)
    entry = folder.first(*_ENTRIES)
    wsgi = not entry or folder.says(entry, r"^(app|application)\s*=")
    review: list[str] = []
    extra: tuple[str, ...] = ()
    if wsgi:
        start: tuple[str, ...] = ("gunicorn", "--bind", f"0.0.0.0:{_PORT}", f"{module(entry or 'app.py')}:app")
        extra = () if packages.has("gunicorn") else (GUNICORN,)
    else:
        start = ("python", entry)
    if not procfile.lines(folder):
        review.append(
            f"no framework that we know: `{' '.join(start)}` is a guess; "
            "correct the CMD of the Dockerfile, or add a Procfile"
        )
    if folder.has("environment.yml") and packages.tool == "none":
        review.append("environment.yml is for conda: list what the app needs in requirements.txt")
    image = Image(version=version, packages=packages, start=start, port=_PORT, extra=extra)
    return Recipe(
        runtime="Python",
        version=version,
        start=start,
        settings=settings(
            web(_PORT, "what the start command is told"),
            env("PORT", _PORT, "for a program that asks where to listen"),
            services(packages),
        ),
        files=(File("Dockerfile", image.dockerfile(folder)),),
        ignored=IGNORED,
        review=tuple(review),
        notes=(doubt,) if doubt else (),
    )


FRAMEWORK = Framework("python", "Python", _look, _cook, bare=True)
