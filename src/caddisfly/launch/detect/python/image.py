"""The image of every Python app.

Packages live in /venv, away from the source: a `.venv` of the laptop cannot land on top of them. They are installed
before the source is copied, so that a changed line costs no installation. The full image builds, because wheels that
are not there need a compiler; the slim one runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from caddisfly.launch.detect import script
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.python.packages import Packages
from caddisfly.launch.detect.versions import Version

UV, POETRY, PIPENV = "uv==0.9.5", "poetry==2.1.4", "pipenv==2025.0.4"
GUNICORN, FASTAPI_CLI = "gunicorn==23.0.0", "fastapi-cli[standard]==0.0.8"
IGNORED = (
    "**/__pycache__",
    "**/*.pyc",
    "**/.venv",
    "**/venv",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".coverage",
)
_LIBRARIES = {
    "psycopg2": ("libpq5",),
    "psycopg": ("libpq5",),
    "mysqlclient": ("libmariadb3",),
    "opencv-python": ("libgl1", "libglib2.0-0"),
    "weasyprint": ("libpango-1.0-0", "libpangoft2-1.0-0", "libharfbuzz-subset0"),
    "python-magic": ("libmagic1",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """`extra` is installed beside what the project asks for, `prepare` runs at the end of the build as root."""

    version: Version
    packages: Packages
    start: Sequence[str]
    port: int
    directory: str = "/app"
    extra: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()
    environment: tuple[tuple[str, object], ...] = ()
    writable: tuple[str, ...] = ()

    def dockerfile(self, folder: Folder) -> str:
        tag = self.version.value
        environment = {"PATH": "/venv/bin:$PATH", "PYTHONUNBUFFERED": 1, "PYTHONDONTWRITEBYTECODE": 1}
        return script.text(
            f"ARG PYTHON_VERSION={tag}",
            "FROM python:${PYTHON_VERSION} AS build",
            "ENV VIRTUAL_ENV=/venv PATH=/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1",
            f"WORKDIR {self.directory}",
            "",
            "# What it needs, before the source: a changed line installs nothing.",
            *self._installed(folder),
            "",
            "FROM python:${PYTHON_VERSION}-slim",
            script.env(**environment, **dict(self.environment)),
            script.apt(*self._libraries()),
            script.ADD_USER,
            f"WORKDIR {self.directory}",
            "COPY --from=build /venv /venv",
            "COPY . .",
            script.run(*self.prepare) if self.prepare else None,
            script.owned(*self.writable) if self.writable else None,
            "",
            "USER app",
            f"EXPOSE {self.port}",
            script.cmd(self.start),
        )

    def _libraries(self) -> list[str]:
        """Shared libraries that wheels do not bring. With the extra `binary`, psycopg brings its own."""
        return [
            library
            for name, libraries in _LIBRARIES.items()
            if self.packages.has(name) and "binary" not in self.packages.extras(name)
            for library in libraries
        ]

    def _installed(self, folder: Folder) -> list[str | None]:
        packages = self.packages
        more = f"pip install {_words(self.extra)}" if self.extra else ""
        if packages.tool == "uv":
            return self._by_uv(folder)
        if packages.tool == "poetry":
            return [
                script.run(f"pip install {POETRY}", "python -m venv /venv"),
                script.copy([packages.manifest, *([packages.lock] if packages.lock else [])]),
                "RUN poetry install --only main --no-root --no-interaction",
                f"RUN /venv/bin/{more}" if more else None,
            ]
        if packages.tool == "pipenv":
            lock = [] if packages.lock else ["pipenv lock"]
            return [
                script.run(f"pip install {PIPENV}", "python -m venv /venv"),
                script.copy([packages.manifest, *([packages.lock] if packages.lock else [])]),
                script.run(
                    *lock,
                    "pipenv requirements > /tmp/requirements.txt",
                    "/venv/bin/pip install -r /tmp/requirements.txt",
                ),
                f"RUN /venv/bin/{more}" if more else None,
            ]
        if packages.tool == "pyproject":
            return self._by_pyproject(more)
        if packages.tool == "pip":
            files = (packages.manifest, *packages.included)
            return [
                "RUN python -m venv /venv",
                *(["COPY . ."] if packages.local else (script.copy([path], f"./{path}") for path in files)),
                f"RUN pip install -r {packages.manifest}",
                f"RUN {more}" if more else None,
            ]
        installs = folder.has("setup.py", "setup.cfg", "pyproject.toml") and packages.installable
        return [
            "RUN python -m venv /venv",
            "COPY . ." if installs or folder.has("setup.py", "setup.cfg") else None,
            "RUN pip install ." if installs or folder.has("setup.py", "setup.cfg") else None,
            f"RUN {more}" if more else None,
        ]

    def _by_uv(self, folder: Folder) -> list[str | None]:
        """A workspace's members and local packages are in the source, so there it has to come first."""
        pyproject = folder.text("pyproject.toml")
        local = re.search(r"^\[tool\.uv\.workspace\]|workspace\s*=\s*true|path\s*=\s*\"", pyproject, re.MULTILINE)
        whole = bool(local) or self.packages.installable
        sync = "uv sync --frozen --no-dev --no-editable"
        return [
            "ENV UV_PROJECT_ENVIRONMENT=/venv UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 \\\n"
            "    UV_NO_CACHE=1",
            f"RUN pip install {UV}",
            None if local else "COPY pyproject.toml uv.lock ./",
            None if local else f"RUN {sync} --no-install-project",
            "COPY . ." if whole else None,
            f"RUN {sync}" if whole else None,
            f"RUN uv pip install --python /venv/bin/python {_words(self.extra)}" if self.extra else None,
        ]

    def _by_pyproject(self, more: str) -> list[str | None]:
        """pip installs a project as a whole or not at all, so its dependencies are read out of the file first."""
        listed = (
            "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\\n')"
        )
        can_read = self.version.numbers >= (3, 11)
        whole = self.packages.installable
        return [
            "RUN python -m venv /venv",
            None if can_read else "RUN pip install tomli==2.2.1",
            "COPY pyproject.toml ./",
            script.run(
                f'python -c "{listed if can_read else listed.replace("tomllib", "tomli")}" > /tmp/requirements.txt',
                "pip install -r /tmp/requirements.txt",
            ),
            "COPY . ." if whole else None,
            "RUN pip install --no-deps ." if whole else None,
            f"RUN {more}" if more else None,
        ]


def _words(requirements: Sequence[str]) -> str:
    """A shell takes brackets for a pattern."""
    return " ".join(f"'{one}'" if "[" in one else one for one in requirements)


def module(path: str) -> str:
    """`src/shop/app.py` as `shop.app`."""
    return re.sub(r"/__init__$", "", re.sub(r"\.py$", "", path.removeprefix("src/"))).replace("/", ".")


def import_path(path: str, directory: str = "/app") -> tuple[tuple[str, object], ...]:
    """What must be set so that a module of the `src` layout is found."""
    return (("PYTHONPATH", f"{directory}/src"),) if path.startswith("src/") else ()
