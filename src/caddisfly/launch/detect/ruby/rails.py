"""Rails: its image as Rails itself generates it, and what its configuration files say about everything around it."""

from __future__ import annotations

import re
import shlex

from caddisfly.launch.detect import script
from caddisfly.launch.detect.findings import ENTRY, MANIFEST, NAMED, Evidence, File, Framework, Recipe, evidence
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.javascript import package as javascript
from caddisfly.launch.detect.ruby import gems
from caddisfly.launch.detect.settings import (
    Default,
    Secret,
    Service,
    bucket,
    check,
    console,
    env,
    mount,
    mysql,
    postgres,
    process,
    redis,
    release,
    settings,
    web,
)
from caddisfly.launch.detect.versions import Interpreters

_PORT = 3000
_PREPARE = "./bin/rails db:prepare"
_KEYS = ("config/credentials/production.key", "config/master.key")
_CREDENTIALS = ("config/credentials/production.yml.enc", "config/credentials.yml.enc")


def _look(folder: Folder) -> tuple[Evidence, ...]:
    gem = gems.has(folder, "rails", "railties")
    rack = folder.says("config.ru", r"Rails\.application")
    binary = folder.has("bin/rails")
    if not (gem or rack or binary):
        return ()
    return evidence(
        (binary, "bin/rails", ENTRY),
        (gem, gem, NAMED),
        (rack, "config.ru of Rails", ENTRY),
        (folder.has("Gemfile", "Gemfile.lock"), folder.first("Gemfile.lock", "Gemfile"), MANIFEST),
    )


def _cook(folder: Folder, local: Interpreters) -> Recipe:
    version = gems.version(folder, local)
    adapter = _adapter(folder)
    needs = _needs(folder, adapter)
    sqlite = adapter == "sqlite3"
    start: tuple[str, ...] = ("./bin/rails", "server", "-b", "0.0.0.0", "-p", str(_PORT))
    if gems.has(folder, "thruster"):
        start = ("./bin/thrust", *start)
    if sqlite:
        start = ("sh", "-c", f"{_PREPARE} && exec {' '.join(start)}")
    defaults: list[Default | Secret] = [*web(_PORT, "Rails' port"), console("/rails/bin/rails console"), _key(folder)]
    if gems.has(folder, "thruster"):
        defaults.append(env("HTTP_PORT", _PORT, "where thruster listens; it passes on to Rails"))
        defaults.append(env("TARGET_PORT", _PORT + 1, "where thruster expects Rails"))
        start = tuple(word.replace(str(_PORT), str(_PORT + 1)) for word in start)
    if adapter in ("postgresql", "mysql2", "trilogy"):
        old = folder.says("Gemfile.lock", r"^    rails \([1-5]\.")
        command = "./bin/rails db:migrate" if old else _PREPARE
        defaults.append(release(command, "brings the database up to date, once before each deploy"))
    if sqlite:
        defaults.append(mount("data", "/data", "SQLite is a file, and only a volume keeps files"))
        defaults.append(env("DATABASE_URL", "sqlite3:///data/production.sqlite3", "where the volume is"))
    if path := re.search(r"get\s+['\"]/?([\w/-]+)['\"]\s*=>\s*['\"]rails/health#show", folder.text("config/routes.rb")):
        headers = {"X-Forwarded-Proto": "https"}
        defaults.append(check(f"/{path[1]}", "the health route of config/routes.rb", headers=headers))
    if worker := _worker(folder):
        defaults.append(process("app", shlex.join(start), "answers requests"))
        defaults.append(process(*worker))
    return Recipe(
        runtime="Ruby",
        version=version,
        start=start,
        settings=settings(defaults, needs),
        files=(File("Dockerfile", _dockerfile(folder, version.value, start, sqlite=sqlite)),),
        ignored=(
            *gems.IGNORED,
            "config/*.key",
            "config/credentials/*.key",
            "storage/*",
            "public/assets",
            "**/node_modules",
        ),
        review=tuple(_review(folder)),
    )


def _dockerfile(folder: Folder, version: str, start: tuple[str, ...], *, sqlite: bool) -> str:
    building, running = gems.libraries(folder)
    package = javascript.read(folder)
    bootsnap = gems.has(folder, "bootsnap")
    assets = gems.has(
        folder, "sprockets", "sprockets-rails", "propshaft", "cssbundling-rails", "jsbundling-rails", "rails"
    )
    if package is not None:
        building += ["nodejs", "npm"]
    return script.text(
        f"ARG RUBY_VERSION={version}",
        "FROM ruby:${RUBY_VERSION}-slim AS base",
        "WORKDIR /rails",
        script.env(
            RAILS_ENV="production",
            BUNDLE_DEPLOYMENT=1 if folder.has("Gemfile.lock") else 0,
            BUNDLE_PATH="/usr/local/bundle",
            BUNDLE_WITHOUT="development:test",
        ),
        "",
        "FROM base AS build",
        script.apt(*building),
        "",
        "# What it needs, before the source: a changed line installs nothing.",
        script.copy(gems.manifests(folder)),
        "RUN bundle install && rm -rf ~/.bundle /usr/local/bundle/ruby/*/cache",
        "RUN bundle exec bootsnap precompile --gemfile" if bootsnap else None,
        *_node(package, folder),
        "",
        "COPY . .",
        "RUN bundle exec bootsnap precompile app/ lib/" if bootsnap else None,
        "RUN chmod +x bin/*" if folder.has("bin/rails") and not folder.executable("bin/rails") else None,
        "# Rails takes a key of its own for this, so that the real one is not needed here." if assets else None,
        "RUN SECRET_KEY_BASE_DUMMY=1 ./bin/rails assets:precompile" if assets else None,
        "RUN rm -rf node_modules" if package is not None else None,
        "",
        "FROM base",
        script.apt(*running, "libjemalloc2"),
        "# Less memory than with the allocator of the C library.",
        'ENV LD_PRELOAD="libjemalloc.so.2" RAILS_LOG_TO_STDOUT=1 RAILS_SERVE_STATIC_FILES=1',
        script.ADD_USER,
        "COPY --from=build /usr/local/bundle /usr/local/bundle",
        "COPY --from=build /rails /rails",
        script.owned("db", "log", "storage", "tmp", *(["/data"] if sqlite else [])),
        "",
        "USER app",
        f"EXPOSE {_PORT}",
        script.cmd(start),
    )


def _node(package: javascript.Package | None, folder: Folder) -> list[str | None]:
    if package is None:
        return []
    lock = {"yarn": "yarn install --frozen-lockfile", "berry": "yarn install --immutable"}
    install = lock.get(package.packager, "npm ci" if package.lock == "package-lock.json" else "npm install")
    yarn = package.packager in lock
    return [
        "RUN npm install --global yarn" if yarn else None,
        script.copy(package.manifests(folder)),
        f"RUN {install}",
    ]


def _adapter(folder: Folder) -> str:
    """Of production. The file is ERB, so it is read by its lines."""
    text = folder.text("config/database.yml")
    part = re.search(r"^production:.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    for place in (part[0] if part else "", text):
        if found := re.search(r"^[ \t]*adapter:\s*['\"]?(\w+)", place, re.MULTILINE):
            return found[1]
    for gem, adapter in (("pg", "postgresql"), ("mysql2", "mysql2"), ("trilogy", "trilogy"), ("sqlite3", "sqlite3")):
        if gems.has(folder, gem):
            return adapter
    return ""


def _needs(folder: Folder, adapter: str) -> list[Service]:
    found: list[Service] = []
    why = "the adapter in config/database.yml" if folder.has("config/database.yml") else "the database's gem"
    if adapter == "postgresql":
        found.append(postgres(why))
    elif adapter in ("mysql2", "trilogy"):
        found.append(mysql(why))
    cable = folder.says("config/cable.yml", r"^production:(?:\n[ \t].*)*?\n[ \t]+adapter:[ \t]*redis")
    cache = folder.says("config/environments/production.rb", r"^[ \t]*config\.cache_store\s*=\s*:redis_cache_store")
    if cable or cache:
        found.append(redis("config/cable.yml" if cable else "the cache in config/environments/production.rb"))
    elif gem := gems.has(folder, "sidekiq", "resque"):
        found.append(redis(gem))
    if gem := gems.has(folder, "aws-sdk-s3"):
        found.append(bucket(gem))
    return found


def _key(folder: Folder) -> Secret:
    file = folder.first(*_KEYS)
    if file:
        return Secret(
            "RAILS_MASTER_KEY", f"opens the credentials; taken from {file}, never copied into the image", "file", file
        )
    if folder.has(*_CREDENTIALS):
        return Secret("RAILS_MASTER_KEY", "opens the credentials; its file is not in this folder", "given")
    return Secret("SECRET_KEY_BASE", "Rails signs sessions with it")


def _worker(folder: Folder) -> tuple[str, str, str] | None:
    if gem := gems.has(folder, "sidekiq"):
        return "sidekiq", "bundle exec sidekiq", gem
    gem = gems.has(folder, "solid_queue")
    if gem and not folder.says("config/puma.rb", "plugin :solid_queue"):
        return "solid_queue", "bundle exec rake solid_queue:start", gem
    return None


def _review(folder: Folder) -> list[str]:
    """What initializers want of the environment is missing at build, and at the first start."""
    found = []
    for name in sorted(folder.names("config/initializers")):
        path = f"config/initializers/{name}"
        if name.endswith(".rb") and folder.says(path, r"^[^#\n]*(ENV\[|ENV\.fetch|credentials)"):
            found.append(
                f"{path} reads ENV or credentials: set what it needs with `caddis secrets set` before the deploy"
            )
    return found


FRAMEWORK = Framework("rails", "Rails", _look, _cook, rich=True)
