"""ASP.NET: a project of the Web SDK, published and run by the runtime alone."""

from __future__ import annotations

import re

from caddisfly.launch.detect import script
from caddisfly.launch.detect.findings import MANIFEST, NAMED, Evidence, File, Framework, Recipe, evidence
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.settings import Service, env, mysql, postgres, redis, settings, stops_with, web
from caddisfly.launch.detect.versions import Interpreters, Version

_PORT = 8080
_DEFAULT = "8.0"
_OLDEST = (6, 0)
_WITH_USER = (8, 0)
_SDK = r"Sdk\s*=\s*[\"']Microsoft\.NET\.Sdk\.Web"


def _projects(folder: Folder) -> list[str]:
    """The shallowest first. Visual Studio puts each into a directory of its name."""
    return [path for path in folder.sources(".csproj", depth=2) if folder.says(path, _SDK)]


def _version(folder: Folder, path: str) -> Version | None:
    """Compared as numbers: 10.0 is newer than 6.0."""
    text = folder.text(path)
    found = re.search(r"<TargetFrameworks?>\s*(?:[^<]*;)?net(\d+\.\d+)", text)
    if not found:
        return None
    version = Version(found[1], f"TargetFramework in {path}")
    return version if version.numbers >= _OLDEST else None


def _look(folder: Folder) -> tuple[Evidence, ...]:
    paths = [path for path in _projects(folder) if _version(folder, path)]
    if not paths:
        return ()
    return evidence((True, f"{paths[0]} of the Web SDK", NAMED), (True, "a project of .NET", MANIFEST))


def _cook(folder: Folder, local: Interpreters) -> Recipe:
    paths = _projects(folder)
    path = paths[0] if paths else next(folder.sources(".csproj", depth=2), "app.csproj")
    version = _version(folder, path) or Version(_DEFAULT, "the default")
    text = folder.text(path)
    named = re.search(r"<AssemblyName>\s*([\w.-]+)\s*</AssemblyName>", text)
    name = named[1] if named else re.sub(r"\.csproj$", "", path.rpartition("/")[2])
    start = ("dotnet", f"{name}.dll")
    alone = "/" not in path
    review = [f"there are several web projects; {path} is published"] if len(paths) > 1 else []
    if not paths:
        review.append("no project of the Web SDK was found")
    user = version.numbers >= _WITH_USER
    dockerfile = script.text(
        f"ARG DOTNET_VERSION={version.value}",
        "FROM mcr.microsoft.com/dotnet/sdk:${DOTNET_VERSION}-alpine AS build",
        "WORKDIR /src",
        "",
        "# What it needs, before the source: a changed line downloads nothing." if alone else None,
        script.copy([path]) if alone else None,
        f'RUN dotnet restore "{path}"' if alone else None,
        "",
        "COPY . .",
        f'RUN dotnet publish "{path}" --configuration Release --output /app',
        "",
        "FROM mcr.microsoft.com/dotnet/aspnet:${DOTNET_VERSION}-alpine",
        None if user else script.ADD_USER_ALPINE,
        "WORKDIR /app",
        "COPY --from=build /app ./",
        "",
        "USER app",
        f"ENV ASPNETCORE_URLS=http://+:{_PORT}",
        f"EXPOSE {_PORT}",
        script.cmd(start),
    )
    needs: list[Service] = []
    for expression, make in (("Npgsql", postgres), ("MySql", mysql), ("StackExchange.*Redis", redis)):
        if re.search(rf"PackageReference[^>]*{expression}", text):
            needs.append(make(f"its package in {path}"))
    return Recipe(
        runtime=".NET",
        version=version,
        start=start,
        settings=settings(
            web(_PORT, "what ASPNETCORE_URLS tells the app"),
            env("ASPNETCORE_URLS", f"http://+:{_PORT}", "every address, not localhost alone"),
            stops_with("SIGTERM", "the signal on which .NET finishes requests"),
            needs,
        ),
        files=(File("Dockerfile", dockerfile),),
        ignored=("**/bin", "**/obj", "**/*.user", "**/.vs"),
        review=tuple(review),
    )


FRAMEWORK = Framework("dotnet", ".NET", _look, _cook)
