"""Laravel."""

from __future__ import annotations

from dataclasses import replace

from caddisfly.launch.detect.findings import ENTRY, MANIFEST, NAMED, Evidence, File, Framework, Recipe, evidence
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.php import image
from caddisfly.launch.detect.settings import (
    Default,
    Secret,
    Service,
    check,
    console,
    env,
    mount,
    release,
    settings,
    stops_with,
    web,
)
from caddisfly.launch.detect.versions import Interpreters

_ENV = (
    ("APP_ENV", "production", "errors are logged and not shown"),
    ("LOG_CHANNEL", "stderr", "so that `caddis logs` has them"),
    ("LOG_LEVEL", "info", "debug tells too much for production"),
    ("LOG_STDERR_FORMATTER", "Monolog\\Formatter\\JsonFormatter", "one line for each message"),
    ("SESSION_DRIVER", "cookie", "a Machine's files do not outlive a deploy"),
    ("SESSION_SECURE_COOKIE", "true", "the app is reached over HTTPS only"),
)
_MIGRATE = f"php {image.ROOT}/artisan migrate --force"
_BUCKET = ("AWS_BUCKET", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT", "AWS_DEFAULT_REGION")


def _look(folder: Folder) -> tuple[Evidence, ...]:
    artisan = folder.has("artisan")
    package = "laravel/framework" in image.required(folder)
    if not (artisan or package):
        return ()
    return evidence(
        (artisan, "artisan", ENTRY),
        (package, "laravel/framework in composer.json", NAMED),
        (folder.has("composer.json"), "composer.json", MANIFEST),
    )


def _cook(folder: Folder, local: Interpreters) -> Recipe:
    version = image.version(folder, local)
    needs = [replace(one, secrets=_BUCKET) if one.kind == "bucket" else one for one in image.services(folder)]
    kinds = {one.kind for one in needs}
    file = folder.first(".env", ".env.example")
    sqlite = bool(file) and folder.says(file, r"^DB_CONNECTION=[\"']?sqlite")
    parts: list[Default | Secret | Service] = [
        *web(image.PORT, "the port that Apache is told"),
        stops_with("SIGTERM", "Apache's signal to stop"),
        *(env(*one) for one in _ENV),
        console(f"php {image.ROOT}/artisan tinker"),
        Secret("APP_KEY", "Laravel encrypts with it", "laravel"),
        *needs,
    ]
    extensions = ["pdo_pgsql"] if "postgres" in kinds else []
    extensions += ["pdo_mysql"] if "mysql" in kinds else []
    if kinds & {"postgres", "mysql"}:
        connection = "pgsql" if "postgres" in kinds else "mysql"
        parts.append(env("DB_CONNECTION", connection, "Laravel reads the address from DB_URL or DATABASE_URL"))
        parts.append(release(_MIGRATE, "migrations run once before each deploy"))
    if sqlite:
        parts.append(mount("data", "/data", "SQLite is a file, and only a volume keeps files"))
        parts.append(env("DB_CONNECTION", "sqlite", f"as {file} says"))
        parts.append(env("DB_DATABASE", "/data/database.sqlite", "where the volume is"))
    if folder.says("bootstrap/app.php", r"health:\s*['\"]/up['\"]"):
        parts.append(check("/up", "the health route of bootstrap/app.php"))
    start: tuple[str, ...] = image.START
    if sqlite:
        start = ("sh", "-c", f"touch /data/database.sqlite && {_MIGRATE} && exec {' '.join(start)}")
    text = image.dockerfile(
        folder,
        version,
        start=start,
        document_root="public",
        extensions=extensions,
        writable=("storage", "bootstrap/cache", *(["/data"] if sqlite else [])),
        prepare=(
            "mkdir -p bootstrap/cache storage/framework/cache storage/framework/sessions storage/framework/views",
            "php artisan package:discover --ansi",
        ),
    )
    return Recipe(
        runtime="PHP",
        version=version,
        start=start,
        settings=settings(parts),
        files=(File("Dockerfile", text),),
        ignored=image.IGNORED,
    )


FRAMEWORK = Framework("laravel", "Laravel", _look, _cook, rich=True)
