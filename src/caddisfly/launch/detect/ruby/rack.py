"""Ruby on Rack: Sinatra and others, and Bridgetown."""

from __future__ import annotations

from caddisfly.launch.detect import script
from caddisfly.launch.detect.findings import ENTRY, FITS, MANIFEST, NAMED, Evidence, File, Framework, Recipe, evidence
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.ruby import gems
from caddisfly.launch.detect.settings import settings, static, web
from caddisfly.launch.detect.versions import Interpreters

_RACK_PORT, _BRIDGETOWN_PORT = 8080, 4000


def _look_ruby(folder: Folder) -> tuple[Evidence, ...]:
    manifest = folder.first("Gemfile", "Gemfile.lock")
    rack = folder.has("config.ru")
    if not (manifest or rack):
        return ()
    return evidence((manifest, manifest, MANIFEST), (rack, "config.ru", ENTRY))


def _look_bridgetown(folder: Folder) -> tuple[Evidence, ...]:
    gem = gems.has(folder, "bridgetown")
    if not gem:
        return ()
    config = folder.first("bridgetown.config.yml", "config/initializers.rb")
    return evidence((True, gem, NAMED), (True, "Gemfile", MANIFEST), (config, config, FITS))


def _cook_ruby(folder: Folder, local: Interpreters) -> Recipe:
    version = gems.version(folder, local)
    start = ("bundle", "exec", "rackup", "--host", "0.0.0.0", "--port", str(_RACK_PORT))
    review = []
    if not folder.has("config.ru"):
        review.append("there is no config.ru: name what to start in the CMD of the Dockerfile")
    if not gems.has(folder, "puma", "falcon", "unicorn", "thin", "webrick"):
        review.append("no web server is among the gems: bundle add puma")
    if gems.has(folder, "rack") and not gems.has(folder, "rackup", "sinatra") and not gems.has(folder, "puma"):
        review.append("since Rack 3 `rackup` is a gem of its own: bundle add rackup")
    building, running = gems.libraries(folder)
    text = script.text(
        *_gems(folder, version.value, building, "/app"),
        "",
        "FROM base",
        script.apt(*running),
        script.ADD_USER,
        "COPY --from=build /usr/local/bundle /usr/local/bundle",
        "COPY . .",
        "",
        "USER app",
        f"EXPOSE {_RACK_PORT}",
        script.cmd(start),
    )
    return Recipe(
        runtime="Ruby",
        version=version,
        start=start,
        settings=settings(web(_RACK_PORT, "the port that rackup is told"), gems.services(folder)),
        files=(File("Dockerfile", text),),
        ignored=gems.IGNORED,
        review=tuple(review),
    )


def _cook_bridgetown(folder: Folder, local: Interpreters) -> Recipe:
    version = gems.version(folder, local)
    start = ("bundle", "exec", "puma", "--bind", f"tcp://0.0.0.0:{_BRIDGETOWN_PORT}")
    building, running = gems.libraries(folder)
    node = [name for name in ("package.json", "package-lock.json", "yarn.lock") if folder.has(name)]
    install = "npm install --global yarn && yarn install --frozen-lockfile" if "yarn.lock" in node else "npm install"
    text = script.text(
        *_gems(
            folder,
            version.value,
            [*building, *(["nodejs", "npm"] if node else [])],
            "/app",
            BRIDGETOWN_ENV="production",
        ),
        script.copy(node),
        f"RUN {install}" if node else None,
        "COPY . .",
        "RUN bundle exec bridgetown deploy && rm -rf node_modules",
        "",
        "FROM base",
        script.apt(*running),
        script.ADD_USER,
        "COPY --from=build /usr/local/bundle /usr/local/bundle",
        "COPY --from=build /app /app",
        script.owned("tmp"),
        "",
        "USER app",
        f"EXPOSE {_BRIDGETOWN_PORT}",
        script.cmd(start),
    )
    return Recipe(
        runtime="Ruby",
        version=version,
        start=start,
        settings=settings(
            web(_BRIDGETOWN_PORT, "Bridgetown's port"),
            static("/app/output", "/", "the finished pages; the proxy serves them itself"),
        ),
        files=(File("Dockerfile", text),),
        ignored=(*gems.IGNORED, "output", ".bridgetown-cache", "**/node_modules"),
        review=() if folder.has("config.ru") else ("there is no config.ru, which Bridgetown's server begins with",),
    )


def _gems(folder: Folder, version: str, building: list[str], directory: str, **environment: object) -> list[str | None]:
    bundle = {
        "BUNDLE_DEPLOYMENT": 1 if folder.has("Gemfile.lock") else 0,
        "BUNDLE_PATH": "/usr/local/bundle",
        "BUNDLE_WITHOUT": "development:test",
    }
    return [
        f"ARG RUBY_VERSION={version}",
        "FROM ruby:${RUBY_VERSION}-slim AS base",
        f"WORKDIR {directory}",
        script.env(RACK_ENV="production", **bundle, **environment),
        "",
        "FROM base AS build",
        script.apt(*building),
        "",
        "# What it needs, before the source: a changed line installs nothing.",
        script.copy(gems.manifests(folder)),
        "RUN bundle install && rm -rf ~/.bundle /usr/local/bundle/ruby/*/cache",
    ]


RUBY = Framework("ruby", "Ruby", _look_ruby, _cook_ruby, bare=True)
BRIDGETOWN = Framework("bridgetown", "Bridgetown", _look_bridgetown, _cook_bridgetown)
