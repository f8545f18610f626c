"""A registry on a directory of its own, served on a real socket, and the control that it asks, made up."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from caddisfly.bus import contract
from caddisfly.bus.rpc import Caller
from caddisfly.host.images.manifest import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from caddisfly.host.registry.server import Registry, Server, config_of
from caddisfly.host.registry.settings import RegistrySettings
from caddisfly.model.errors import Unauthenticated, Unavailable
from tests.conftest import eventually, free_port

APP, OTHER_APP, FOREIGN_APP = "web", "worker", "theirs"
TOKEN, FOREIGN_TOKEN = "fo1_mine", "fo1_theirs"


class MadeUpControl(Caller):
    """Two organizations with their apps and tokens. `away` is its outage, `used` what Machines run."""

    def __init__(self) -> None:
        self.apps = {APP: ("org1", "app1"), OTHER_APP: ("org1", "app2"), FOREIGN_APP: ("org2", "app3")}
        self.tokens = {TOKEN: "org1", FOREIGN_TOKEN: "org2"}
        self.away = False
        self.asked = 0
        self.used: tuple[str, ...] = ()

    async def call(self, method: Any, request: Any, *, timeout_s: float = 0) -> Any:
        if self.away:
            raise Unavailable("nobody answers control")
        self.asked += 1
        if method is contract.ASK_NEEDS:
            alive = self.apps.get(request.name) == (request.org_id, request.app_id)
            return contract.RepositoryNeeds(alive=alive, digests=self.used)
        org = self.tokens.get(request.authorization.removeprefix("Bearer "))
        if org is None:
            raise Unauthenticated("unauthenticated")
        names = self.apps if request.everything else request.names
        return contract.GrantedAccess(
            repositories=tuple(
                contract.RepositoryAccess(name=name, app_id=self.apps[name][1], org_id=org)
                for name in names
                if name in self.apps and self.apps[name][0] == org
            )
        )


@dataclass
class Served:
    """`control` and `registry` are there to be looked into."""

    settings: RegistrySettings
    control: MadeUpControl
    registry: Registry
    host: str
    http: httpx.AsyncClient

    def client(self, token: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=f"http://{self.host}", auth=("x", token), trust_env=False)


@asynccontextmanager
async def serving(settings: RegistrySettings, control: MadeUpControl) -> AsyncIterator[Served]:
    registry = Registry(settings, control)
    registry.open()
    server = Server(config_of(settings, registry.application))
    task = asyncio.create_task(server.serve())
    host = f"{settings.host}:{settings.port}"
    try:
        await eventually(lambda: server.started or task.done())
        async with httpx.AsyncClient(base_url=f"http://{host}", auth=("x", TOKEN), trust_env=False) as http:
            yield Served(settings, control, registry, host, http)
    finally:
        server.should_exit = True
        await task
        registry.close()


@pytest.fixture
def settings(tmp_path: Path) -> RegistrySettings:
    store = tmp_path / "store"
    store.mkdir()
    return RegistrySettings(store=store, port=free_port(), min_free_mb=0, access_cache_s=0)


@pytest.fixture
def control() -> MadeUpControl:
    return MadeUpControl()


@pytest.fixture
async def served(settings: RegistrySettings, control: MadeUpControl) -> AsyncIterator[Served]:
    async with serving(settings, control) as instance:
        yield instance


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Artifact:
    """A manifest and the blobs that it names. They need not be an image."""

    config: bytes = b"{}"
    layers: tuple[bytes, ...] = (b"layer one", b"layer two")
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def manifest(self) -> bytes:
        def descriptor(data: bytes, kind: str) -> dict[str, Any]:
            return {"mediaType": kind, "digest": sha(data), "size": len(data)}

        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(self.config, OCI_CONFIG),
            "layers": [descriptor(layer, OCI_LAYER) for layer in self.layers],
        }
        return json.dumps(document | self.more).encode()

    @property
    def digest(self) -> str:
        return sha(self.manifest)


async def push_blob(http: httpx.AsyncClient, data: bytes, *, app: str = APP) -> str:
    answer = await http.post(f"/v2/{app}/blobs/uploads/", params={"digest": sha(data)}, content=data)
    assert answer.status_code == 201, answer.text
    return sha(data)


async def push_manifest(
    http: httpx.AsyncClient, data: bytes, target: str, *, app: str = APP, kind: str = OCI_MANIFEST
) -> httpx.Response:
    return await http.put(f"/v2/{app}/manifests/{target}", content=data, headers={"Content-Type": kind})


async def push(http: httpx.AsyncClient, artifact: Artifact, tag: str, *, app: str = APP) -> str:
    """Everything of it, in the order in which clients do it."""
    for data in (artifact.config, *artifact.layers):
        await push_blob(http, data, app=app)
    answer = await push_manifest(http, artifact.manifest, tag, app=app)
    assert answer.status_code == 201, answer.text
    return artifact.digest


def index_of(*manifests: bytes, **more: Any) -> bytes:
    entries = [{"mediaType": OCI_MANIFEST, "digest": sha(data), "size": len(data)} for data in manifests]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, **more}).encode()
