"""buildah as it is run inside the sandbox: its command line, its configuration, and the script that is process 1 there.

Nothing that a tenant writes becomes a word of a shell: the command line goes in as JSON-quoted words of the process,
and the script is the same for everybody. Secrets are files; only their paths are arguments. What operators set for
every step (`env`) is written into each step's bundle by a wrapper around the runtime, since buildah of Debian 12 can
only add to the environment what then becomes part of the image.

The ignore rules were applied where the context was collected, by one engine; buildah's own are switched off. The
Dockerfile is a copy that the agent made, because a link in the context could lead to any file of the sandbox.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from caddisfly.host.builds.build import Build
from caddisfly.host.builds.settings import BuildSettings
from caddisfly.host.images.settings import Credentials, ImageSettings

DISK, PRIVATE, CONTEXT = "/build", "/private", "/build/context"
DOCKERFILE, AUTH = f"{PRIVATE}/Dockerfile", f"{PRIVATE}/auth.json"
SECRETS = f"{PRIVATE}/secrets"
STORAGE, TEMPORARY = f"{DISK}/storage", f"{DISK}/tmp"
KNOWN = f"{DISK}/known"
"""Which compressed blob is which layer: without it, each push compresses every layer again to find out its digest."""
DIGEST, PHASE = f"{PRIVATE}/digest", f"{PRIVATE}/phase"
_RUNTIME, _IGNORE = "/etc/caddisfly/runtime", "/etc/caddisfly/ignore"
MOUNTS = "/mounts"
"""Where what the operator shows to every step is in the sandbox, by number."""
_HUB = ("docker.io", "registry-1.docker.io", "index.docker.io")

# The last word of `$@` names the image; what comes before is buildah's command line.
SCRIPT = f"""
limit=$1 name=$2 image=$3; shift 3
used() {{ df -kP {DISK} | tail -n 1 | while read -r _ _ used _; do echo "$used"; done; }}
while [ "$(used)" -gt "$limit" ]; do
  oldest=$(buildah images --all --no-trunc --format '{{{{.CreatedAtRaw}}}} {{{{.ID}}}}' | sort | head -n 8 \\
    | while read -r line; do echo "${{line##* }}"; done)
  [ -n "$oldest" ] && buildah rmi --force $oldest >/dev/null 2>&1 && continue
  rm -rf {TEMPORARY}/buildah-cache*
  break
done
echo build > {PHASE}
"$@" || exit
echo push > {PHASE}
exec buildah push --quiet --digestfile {DIGEST} "$name" "docker://$image"
"""

_WRAPPER = """#!/bin/sh
# Adds what the operator sets for every step. What the image itself sets comes later in the list, and wins.
for word; do
  [ "$before" = --bundle ] && bundle=$word
  before=$word
done
[ -n "$bundle" ] && [ -f "$bundle/config.json" ] && sed -i {edit} "$bundle/config.json"
exec runc "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where results go: the platform's registry. `names` are what it is called; `address` is where it is asked."""

    names: tuple[str, ...]
    address: str
    plain_http: bool = True

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def reference(self, app: str, tag: str) -> str:
        """What people call it."""
        return f"{self.names[0]}/{app}:{tag}"

    def pushed(self, app: str, tag: str) -> str:
        """What buildah calls it: aliases count for pulling only."""
        return f"{self.address}/{app}:{tag}"


def arguments(build: Build, *, image: str, settings: BuildSettings) -> list[str]:
    """Process 1 of the sandbox, word by word."""
    command = [
        *("buildah", "bud", "--layers", "--force-rm", "--isolation", "oci", "--runtime", _RUNTIME),
        *("--network", "host", "--format", "docker", "--ignorefile", _IGNORE, "--authfile", AUTH),
        *("--file", DOCKERFILE, "--tag", _local(build)),
    ]
    if build.target:
        command += ["--target", build.target]
    if build.no_cache:
        command.append("--no-cache")
    for name, value in build.args.items():
        command += ["--build-arg", f"{name}={value}"]
    for name, value in build.labels.items():
        command += ["--label", f"{name}={value}"]
    for name in build.secret_names:
        command += ["--secret", f"id={name},src={SECRETS}/{name}"]
    for number, target in enumerate(settings.mounted.values()):
        command += ["--volume", f"{MOUNTS}/{number}:{target}:ro"]
    limit_kb = settings.cache_gb << 20
    return ["sh", "-c", SCRIPT, "build", str(limit_kb), _local(build), image, *command, CONTEXT]


def environment(settings: BuildSettings) -> dict[str, str]:
    """Of buildah itself. Proxies count for pulling base images too."""
    proxies = {name: value for name, value in settings.env.items() if name.lower().endswith("_proxy")}
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "TMPDIR": TEMPORARY,
        "XDG_RUNTIME_DIR": "/run",
        "REGISTRY_AUTH_FILE": AUTH,
        **proxies,
    }


def files(
    *, settings: BuildSettings, images: ImageSettings, destination: Destination, nameservers: tuple[str, ...]
) -> dict[str, str]:
    """`/etc` of the sandbox, by path below it."""
    return {
        "containers/policy.json": '{"default": [{"type": "insecureAcceptAnything"}]}',
        "containers/registries.conf": registries(images, destination),
        "containers/storage.conf": _storage(),
        "containers/containers.conf": "",
        "caddisfly/runtime": _WRAPPER.format(edit=shlex.quote(_edit(settings.env))),
        "caddisfly/ignore": "",
        "resolv.conf": "".join(f"nameserver {server}\n" for server in nameservers),
        "hosts": "127.0.0.1 localhost\n::1 localhost\n",
        "hostname": "build\n",
        "passwd": "root:x:0:0:root:/root:/bin/sh\n",
        "group": "root:x:0:\n",
        "nsswitch.conf": "hosts: files dns\n",
    }


def registries(images: ImageSettings, destination: Destination) -> str:
    """`registries.conf`: mirrors and plain HTTP as in `[images]`, and the platform's own names."""
    entries = dict.fromkeys(destination.names, (destination.address, destination.plain_http))
    for registry, url in images.mirrors.items():
        parts = urlsplit(url)
        plain = parts.scheme == "http" or parts.netloc in images.insecure_registries
        entries[_hub(registry)] = (parts.netloc + parts.path.removesuffix("/"), plain)
    for registry in images.insecure_registries:
        entries.setdefault(registry, (registry, True))
    entries.setdefault(destination.address, (destination.address, destination.plain_http))
    tables = [
        f"[[registry]]\nprefix = {json.dumps(name)}\nlocation = {json.dumps(location)}\n"
        f"insecure = {json.dumps(insecure)}\n"
        for name, (location, insecure) in entries.items()
    ]
    return 'unqualified-search-registries = ["docker.io"]\nshort-name-mode = "disabled"\n' + "".join(tables)


def credentials(shown: Mapping[str, Credentials], destination: Destination, token: str) -> str:
    """`auth.json`. It lies in memory, and is the builder's: whoever writes the Dockerfile may find a way to read it."""
    known = {_hub(registry): (entry.username, entry.password.get_secret_value()) for registry, entry in shown.items()}
    if token:
        known |= dict.fromkeys((*destination.names, destination.address), ("build", token))
    auths = {
        name: {"auth": base64.b64encode(f"{user}:{word}".encode()).decode()} for name, (user, word) in known.items()
    }
    return json.dumps({"auths": auths})


def loopback_ports(images: ImageSettings, destination: Destination) -> set[int]:
    """Ports of this host's loopback that pulling and pushing need: the operator has named them as registries."""
    places = [urlsplit(url).netloc or url for url in images.mirrors.values()]
    places += [*images.insecure_registries, destination.address]
    return {int(port) for host, _, port in (place.rpartition(":") for place in places) if _is_loopback(host)}


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _hub(registry: str) -> str:
    return _HUB[0] if registry in _HUB else registry


def _local(build: Build) -> str:
    return f"localhost/caddisfly/result:{build.id}"


def _storage() -> str:
    return f'[storage]\ndriver = "overlay"\ngraphroot = "{STORAGE}"\nrunroot = "/run/storage"\n'


def _edit(env: Mapping[str, str]) -> str:
    """What `sed` does to the bundle. In JSON, no text that somebody chose can contain an unescaped `"env":[`."""
    added = "".join(json.dumps(f"{name}={value}") + "," for name, value in env.items())
    escaped = added.replace("\\", "\\\\").replace("&", "\\&").replace("|", "\\|")
    return f's|"env":\\[|&{escaped}|'
