"""PHP without a framework that we know: files that Apache serves, from `public` where there is one."""

from __future__ import annotations

from caddisfly.launch.detect.findings import ENTRY, MANIFEST, Evidence, File, Framework, Recipe, evidence
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.php import image
from caddisfly.launch.detect.settings import settings, stops_with, web
from caddisfly.launch.detect.versions import Interpreters

_ROOTS = ("public", "web", "htdocs", "www")


def _look(folder: Folder) -> tuple[Evidence, ...]:
    index = folder.first(*(f"{root}/index.php" for root in _ROOTS), "index.php")
    composer = folder.has("composer.json")
    if not (index or composer):
        return ()
    return evidence((index, index, ENTRY), (composer, "composer.json", MANIFEST))


def _cook(folder: Folder, local: Interpreters) -> Recipe:
    version = image.version(folder, local)
    index = folder.first(*(f"{root}/index.php" for root in _ROOTS), "index.php")
    root = index.rpartition("/")[0]
    needs = image.services(folder)
    kinds = {one.kind for one in needs}
    extensions = ["pdo_pgsql"] if "postgres" in kinds else []
    extensions += ["pdo_mysql", "mysqli"] if "mysql" in kinds or folder.source_saying(r"mysqli|mysql:", ".php") else []
    return Recipe(
        runtime="PHP",
        version=version,
        start=image.START,
        settings=settings(
            web(image.PORT, "the port that Apache is told"), stops_with("SIGTERM", "Apache's signal to stop"), needs
        ),
        files=(File("Dockerfile", image.dockerfile(folder, version, document_root=root, extensions=extensions)),),
        ignored=image.IGNORED,
        review=() if index else ("there is no index.php: nothing answers at /",),
    )


FRAMEWORK = Framework("php", "PHP", _look, _cook, bare=True)
