"""What examples are built on where Docker Hub is out of reach: its images' stand-ins, made of this computer's packages.

They are called as Docker Hub calls them and served by a mirror, so that the examples, and the Dockerfiles that launch
writes, are those that users have. One Debian userland with Python is below all of them; Node.js and PostgreSQL are
layers of this computer's own files.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

from caddisfly.host.images.build import tar_of, write_oci_layout
from tests.builds.registry import PushRegistry

ROOT = Path(__file__).resolve().parents[2]
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NODE_TREES = ("/usr/lib/node_modules/npm", "/usr/share/nodejs", "/usr/share/npm")
_POSTGRES = """#!/bin/sh
set -e
install -d -o postgres /data
exec setpriv --reuid postgres --regid postgres --clear-groups sh -c '
  export PATH=$PATH:BIN
  if [ ! -s /data/PG_VERSION ]; then
    printf %s "$POSTGRES_PASSWORD" > /tmp/password
    initdb -D /data -U postgres --pwfile /tmp/password -A scram-sha-256 --no-locale -E UTF8 --no-sync
    echo "host all all all scram-sha-256" >> /data/pg_hba.conf
  fi
  exec postgres -D /data -c listen_addresses="*" -c unix_socket_directories=/tmp -c jit=off'
"""


def mirror(directory: Path) -> PushRegistry:
    """Of Docker Hub: `python`, `node` and `postgres` in the versions that this computer has."""
    base = _script().userland(directory, "python3-venv", "python-is-python3", "tzdata")
    users = _users(base)
    served = PushRegistry()
    python = re.findall(r"\d+\.\d+", _said("/usr/bin/python3", "--version"))[0]
    layout = _layout(directory / f"python-{python}", base, [], Cmd=["python3"])
    for tag in (python, f"{python}-slim", "3-slim"):
        served.serve_layout(layout, f"library/python:{tag}")
    if node := shutil.which("node"):
        major = re.findall(r"v(\d+)", _said(node, "--version"))[0]
        layers = [_node(node), users("node", 1000)]
        layout = _layout(directory / f"node-{major}", base, layers, Cmd=["node"])
        served.serve_layout(layout, f"library/node:{major}-slim")
    home = max(Path("/usr/lib/postgresql").iterdir())
    layout = _layout(
        directory / f"postgres-{home.name}",
        base,
        [_postgres(home), users("postgres", 999)],
        Entrypoint=["/usr/local/bin/entrypoint"],
    )
    served.serve_layout(layout, f"library/postgres:{home.name}")
    return served


def _script() -> Any:
    path = ROOT / "scripts" / "build-example-image"
    loader = SourceFileLoader("build_example_image", str(path))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def _layout(path: Path, base: Path, layers: list[bytes], **config: Any) -> Path:
    """Kept for the next run, like the userland that it is made of."""
    digest = sha256(b"".join([str(base.stat().st_mtime_ns).encode(), *layers])).hexdigest()[:12]
    path = path.with_name(f"{path.name}-{digest}")
    if not path.exists():
        fresh = Path(tempfile.mkdtemp(dir=path.parent))
        write_oci_layout(fresh, layers=[base, *layers], config={"Env": [_PATH], **config}, compression="zstd")
        fresh.rename(path)
    return path


def _users(base: Path) -> Callable[[str, int], bytes]:
    """A layer that adds one to those of the userland."""
    with tarfile.open(base) as tar:
        kept = {name: _text(tar, f"./etc/{name}") for name in ("passwd", "group")}

    def with_user(name: str, uid: int) -> bytes:
        passwd = f"{kept['passwd']}{name}:x:{uid}:{uid}::/home/{name}:/bin/sh\n"
        return tar_of({"etc/passwd": passwd, "etc/group": f"{kept['group']}{name}:x:{uid}:\n"}, mode=0o644)

    return with_user


def _text(tar: tarfile.TarFile, name: str) -> str:
    file = tar.extractfile(name)
    assert file is not None
    return file.read().decode()


def _node(program: str) -> bytes:
    trees = [Path(tree) for tree in _NODE_TREES if Path(tree).is_dir()]
    npm = Path(_said("/bin/sh", "-c", "readlink -f $(command -v npm)"))
    node = Path(program).resolve()
    return _layer([node, *_libraries([node]), *trees], links={"usr/bin/node": str(node), "usr/bin/npm": str(npm)})


def _postgres(home: Path) -> bytes:
    programs = [home / "bin" / name for name in ("postgres", "initdb")]
    parts = [path for path in (home / "lib").glob("*.so") if "jit" not in path.name]
    share = Path("/usr/share/postgresql") / home.name
    files = {"usr/local/bin/entrypoint": _POSTGRES.replace("BIN", str(home / "bin"))}
    return _layer([*programs, *parts, share, *_libraries([*programs, *parts])], files=files)


def _libraries(programs: Iterable[Path]) -> set[Path]:
    """What these need of this computer, each under the name by which it is looked for."""
    said = _said("ldd", *map(str, programs))
    found = (Path(path) for path in re.findall(r"=> (/\S+)", said))
    return {path.parent.resolve() / path.name for path in found}


def _layer(
    paths: Iterable[Path], *, files: Mapping[str, str] | None = None, links: Mapping[str, str] | None = None
) -> bytes:
    """These of this computer at their own places, links followed; the same bytes for the same content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", dereference=True) as tar:
        for path in sorted(set(paths)):
            tar.add(path, filter=_plain)
        for name, text in (files or {}).items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o755
            tar.addfile(entry, io.BytesIO(text.encode()))
        for name, target in (links or {}).items():
            if f"/{name}" != target:
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = tarfile.SYMTYPE, target
                tar.addfile(entry)
    return out.getvalue()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
