"""The image of every PHP app: one process, Apache with PHP in it, on a high port and as somebody who is not root.

Fly's generator has nginx, php-fpm and a supervisor on Ubuntu. One process needs no supervisor, gets the signal to stop
itself, and says by its exit that it is gone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from caddisfly.launch.detect import script
from caddisfly.launch.detect.folder import Folder, table
from caddisfly.launch.detect.javascript import package as javascript
from caddisfly.launch.detect.settings import Service, bucket, mysql, postgres, redis
from caddisfly.launch.detect.versions import Interpreters, Version, chosen, lowest, of_tools

PORT = 8080
ROOT = "/var/www/html"
START = ("apache2-foreground",)
IGNORED = (
    "**/vendor",
    "**/node_modules",
    "storage/logs/*",
    "storage/framework/cache/*",
    "storage/framework/sessions/*",
)
_DEFAULT = "8.3"
_OLDEST = (8, 1)
_EXTENSIONS = {
    "ext-gd": ("gd", ("libpng-dev",)),
    "ext-intl": ("intl", ("libicu-dev",)),
    "ext-zip": ("zip", ("libzip-dev",)),
    "ext-bcmath": ("bcmath", ()),
    "ext-pdo_pgsql": ("pdo_pgsql", ("libpq-dev",)),
    "ext-pgsql": ("pgsql", ("libpq-dev",)),
    "ext-pdo_mysql": ("pdo_mysql", ()),
    "ext-mysqli": ("mysqli", ()),
}


def required(folder: Folder) -> dict[str, object]:
    return table(folder.json("composer.json"), "require")


def version(folder: Folder, local: Interpreters) -> Version:
    """What composer.json begins at, unless that is out of support and newer is allowed."""
    composer = folder.json("composer.json")
    platform = table(composer, "config", "platform").get("php")
    floor = lowest(str(required(folder).get("php") or ""))
    numbers = tuple(int(part) for part in floor.split(".")) if floor else ()
    wanted = None
    if len(numbers) > 1:
        wanted = Version(floor, "php in composer.json") if numbers >= _OLDEST else None
    return chosen(
        Version(str(platform), "config.platform in composer.json") if platform else None,
        of_tools(folder, "php"),
        wanted,
        lambda: _local(local),
        default=_DEFAULT,
    ).short(2)


def _local(local: Interpreters) -> Version | None:
    match = re.match(r"(\d+)\.(\d+)", local.version("php"))
    recent = match and (int(match[1]), int(match[2])) >= _OLDEST
    return Version(match[0], "php of this computer") if match and recent else None


def dockerfile(
    folder: Folder,
    found: Version,
    *,
    document_root: str,
    start: Sequence[str] = START,
    extensions: Sequence[str] = (),
    libraries: Sequence[str] = (),
    writable: Sequence[str] = (),
    prepare: Sequence[str] = (),
) -> str:
    needs = required(folder)
    wanted = [*extensions, *(_EXTENSIONS[name][0] for name in _EXTENSIONS if name in needs)]
    apt = [*libraries, *(one for name in _EXTENSIONS if name in needs for one in _EXTENSIONS[name][1])]
    if "pdo_pgsql" in extensions:
        apt.append("libpq-dev")
    composer = folder.has("composer.json")
    package = javascript.read(folder)
    assets = package is not None and "build" in package.scripts
    root = f"{ROOT}/{document_root}".rstrip("/")
    return script.text(
        f"ARG PHP_VERSION={found.value}",
        *(_vendor(folder) if composer else []),
        *(_assets(folder, package, composer=composer) if assets and package is not None else []),
        "FROM php:${PHP_VERSION}-apache",
        script.apt(*apt),
        f"RUN docker-php-ext-install {' '.join(dict.fromkeys(['opcache', *wanted]))} && a2enmod rewrite headers",
        'RUN mv "$PHP_INI_DIR/php.ini-production" "$PHP_INI_DIR/php.ini"',
        "# A port that needs no root, and addresses that are no file go to index.php.",
        script.run(
            f"sed -i 's/^Listen 80$/Listen {PORT}/' /etc/apache2/ports.conf",
            f"sed -i -e 's/:80>/:{PORT}>/' -e 's,/var/www/html,{root},' /etc/apache2/sites-available/000-default.conf",
            f"printf '<Directory {root}>\\n  AllowOverride All\\n  FallbackResource /index.php\\n</Directory>\\n' "
            "> /etc/apache2/conf-enabled/app.conf",
        ),
        f"WORKDIR {ROOT}",
        "COPY . .",
        "COPY --from=vendor /app/vendor ./vendor" if composer else None,
        "COPY --from=assets /app/public/build ./public/build" if assets else None,
        script.run(*prepare) if prepare else None,
        script.owned(*writable, user="www-data") if writable else None,
        "",
        "USER www-data",
        f"EXPOSE {PORT}",
        script.cmd(start),
    )


def _vendor(folder: Folder) -> list[str | None]:
    """Scripts of packages expect the app, which is not there yet."""
    lock = ["composer.lock"] if folder.has("composer.lock") else []
    return [
        "FROM composer:2 AS vendor",
        "WORKDIR /app",
        "# What it needs, before the source: a changed line installs nothing.",
        script.copy(["composer.json", *lock]),
        "RUN composer install --no-dev --no-scripts --no-autoloader --no-interaction --ignore-platform-reqs",
        "COPY . .",
        "RUN composer dump-autoload --no-dev --optimize --no-scripts",
        "",
    ]


def _assets(folder: Folder, package: javascript.Package, *, composer: bool) -> list[str | None]:
    install = {"yarn": "yarn install --frozen-lockfile", "pnpm": "npx pnpm install --frozen-lockfile"}
    run = install.get(package.packager, "npm ci" if package.lock == "package-lock.json" else "npm install")
    return [
        f"FROM node:{javascript.NODE}-slim AS assets",
        "WORKDIR /app",
        script.copy(package.manifests(folder)),
        f"RUN {run}",
        "COPY . .",
        "COPY --from=vendor /app/vendor ./vendor" if composer else None,
        "RUN npm run build && mkdir -p public/build",
        "",
    ]


def services(folder: Folder) -> list[Service]:
    """From the .env of the project or its example: what it says there is what it runs with."""
    found: list[Service] = []
    env = folder.first(".env", ".env.example")
    connection = re.search(r"^DB_CONNECTION=[\"']?(\w+)", folder.text(env), re.MULTILINE) if env else None
    if connection and connection[1] in ("pgsql", "mysql", "mariadb"):
        make = postgres if connection[1] == "pgsql" else mysql
        found.append(make(f"DB_CONNECTION in {env}"))
    if folder.says(env, r"^(CACHE_STORE|CACHE_DRIVER|QUEUE_CONNECTION|SESSION_DRIVER)=[\"']?redis") if env else False:
        found.append(redis(f"redis in {env}"))
    if "league/flysystem-aws-s3-v3" in required(folder):
        found.append(bucket("league/flysystem-aws-s3-v3 in composer.json"))
    return found
