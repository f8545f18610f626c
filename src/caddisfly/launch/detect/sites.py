"""Sites that are files: as they lie there, or as Hugo makes them."""

from __future__ import annotations

import re

from caddisfly.launch.detect import nginx, script
from caddisfly.launch.detect.findings import ENTRY, FITS, NAMED, Evidence, File, Framework, Recipe, evidence
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.javascript import package as javascript
from caddisfly.launch.detect.settings import NGINX_STOP, settings, web
from caddisfly.launch.detect.versions import Interpreters, Version, chosen, in_file

_PORT = 8080
_HUGO = "0.145.0"
_HUGO_FILES = ("hugo.toml", "hugo.yaml", "hugo.yml", "hugo.json")
_SERVED = re.compile(r"(?:^|\s)(?:npx\s+)?(?:serve|http-server)(?:\s+-\S+)*\s+([\w./-]+)")
_SOURCES = ("*.md", "Makefile", "package*.json", "**/node_modules", "**/*.key", "**/*.pem", "*.sql", "*.log")


def _directory(folder: Folder) -> str | None:
    """Where the pages are: the top, or what a script serves. None when there are none."""
    package = javascript.read(folder)
    for name in ("serve", "dev", "web", "start"):
        match = _SERVED.search(package.scripts.get(name, "")) if package else None
        directory = match[1].removeprefix("./").rstrip("/") if match else ""
        if directory and folder.has(f"{directory}/index.html"):
            return directory
    return "" if folder.has("index.html") else None


def _look_static(folder: Folder) -> tuple[Evidence, ...]:
    directory = _directory(folder)
    if directory is None:
        return ()
    path = f"{directory}/index.html" if directory else "index.html"
    return evidence((True, path, ENTRY))


def _cook_static(folder: Folder, local: Interpreters) -> Recipe:
    directory = _directory(folder)
    start = ("-port", str(_PORT), "-path", "/srv/http")
    text = script.text(
        "FROM pierrezemb/gostatic",
        "# What is copied is published; .dockerignore keeps the rest out.",
        f"COPY {directory or '.'} /srv/http",
        "",
        "# It has no list of users, so a number.",
        f"USER {script.UID}:{script.UID}",
        f"EXPOSE {_PORT}",
        'ENTRYPOINT ["/goStatic"]',
        script.cmd(start),
    )
    notes = [] if directory else ["all of the folder is published but what .dockerignore names: look at it once"]
    return Recipe(
        runtime="static files",
        start=start,
        settings=settings(web(_PORT, "the port that the file server is told")),
        files=(File("Dockerfile", text),),
        ignored=("**/.*", *_SOURCES),
        review=() if directory is not None else ("there is no index.html: nothing answers at /",),
        notes=tuple(notes),
    )


def _look_hugo(folder: Folder) -> tuple[Evidence, ...]:
    config = folder.first(*_HUGO_FILES)
    old = folder.first("config.toml", "config.yaml", "config.yml")
    hugo = old and folder.has_directory("content") and folder.says(old, r"(?i)^[ \t]*baseurl\s*[=:]")
    content = folder.has_directory("content")
    if not (config or hugo):
        return ()
    return evidence(
        (config, config, NAMED), (not config and hugo, f"{old} with a baseURL", NAMED), (content, "content/", FITS)
    )


def _cook_hugo(folder: Folder, local: Interpreters) -> Recipe:
    exact = chosen(
        in_file(folder, "netlify.toml", r"HUGO_VERSION\s*=\s*\"(\d+\.\d+\.\d+)\""),
        in_file(folder, ".hugo-version"),
        in_file(folder, ".tool-versions", r"^(?:go)?hugo\s+(?:extended_)?(\d+\.\d+\.\d+)"),
        default=_HUGO,
    )
    version = exact if exact.value.count(".") == 2 else Version(_HUGO, "the default")
    npm = folder.has("package.json")
    text = script.text(
        f"ARG HUGO_VERSION={version.value}",
        "FROM hugomods/hugo:exts-${HUGO_VERSION} AS build",
        "WORKDIR /src",
        "COPY . .",
        "RUN npm install" if npm else None,
        "RUN hugo --minify --destination /site",
        "",
        *nginx.serving("--from=build /site"),
    )
    return Recipe(
        runtime="Hugo",
        version=version,
        start=("nginx", "-g", "daemon off;"),
        settings=settings(web(nginx.PORT, "the port that nginx is told"), NGINX_STOP),
        files=(File("Dockerfile", text),),
        ignored=("public", "resources/_gen", "**/node_modules", ".hugo_build.lock"),
        notes=("baseURL in the configuration should be the address of the app",),
    )


STATIC = Framework("static", "static site", _look_static, _cook_static)
HUGO = Framework("hugo", "Hugo", _look_hugo, _cook_hugo)
