"""The OCI distribution API (version 1.1): routes, and what stands before all of them.

Nothing under `/v2/` is told to anybody without a good token, not even whether a path exists. Names are checked before
they come near a file's name.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from caddisfly.bus.contract import RepositoryAccess
from caddisfly.host.images.reference import is_digest, is_repository, is_tag
from caddisfly.host.registry import refusals
from caddisfly.host.registry.access import Gatekeeper
from caddisfly.host.registry.blobs import BlobCalls
from caddisfly.host.registry.call import Call, ClientGone, Receive, Scope, Send
from caddisfly.host.registry.listing import page
from caddisfly.host.registry.manifests import ManifestCalls
from caddisfly.host.registry.pushing import UploadCalls
from caddisfly.host.registry.repository import Repositories, Repository
from caddisfly.host.registry.uploads import Uploads
from caddisfly.model.errors import Problem, Unavailable

log = logging.getLogger(__name__)

Handler = Callable[[Call, Repository], Awaitable[None]]
_READING = frozenset({"GET", "HEAD"})


class Application:
    """The ASGI application."""

    def __init__(self, repositories: Repositories, uploads: Uploads, gatekeeper: Gatekeeper) -> None:
        self._repositories, self._gatekeeper = repositories, gatekeeper
        blobs, manifests = BlobCalls(), ManifestCalls()
        pushing = UploadCalls(uploads, source=self._source)
        name = r"/v2/(?P<name>.+)"
        table: dict[str, dict[str, Handler]] = {
            name + r"/tags/list": {"GET": manifests.tags},
            name + r"/manifests/(?P<target>[^/]+)": {
                "GET": manifests.get,
                "HEAD": manifests.get,
                "PUT": manifests.put,
                "DELETE": manifests.delete,
            },
            name + r"/referrers/(?P<digest>[^/]+)": {"GET": manifests.referrers},
            name + r"/blobs/uploads/?": {"POST": pushing.begin},
            name + r"/blobs/uploads/(?P<id>[^/]+)": {
                "GET": pushing.status,
                "PATCH": pushing.append,
                "PUT": pushing.finish,
                "DELETE": pushing.cancel,
            },
            name + r"/blobs/(?P<digest>[^/]+)": {"GET": blobs.get, "HEAD": blobs.get, "DELETE": blobs.delete},
        }
        self._routes = [(re.compile(pattern), handlers) for pattern, handlers in table.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive, send)
        refusal: refusals.Refusal
        try:
            await self._serve(call)
            return
        except ClientGone:
            log.debug("registry.client_gone", extra={"path": call.path})
            return
        except Problem as problem:
            refusal = refusals.of(problem)
        except FileNotFoundError:  # it went away in this very moment, with its repository or by itself
            refusal = refusals.Refusal(404, "NAME_UNKNOWN", "it is not there any more", next="ask again")
        except OSError as error:
            refusal = refusals.of(Unavailable("the registry's disk fails", why=error.strerror or "", next="try again"))
            log.error("registry.disk", extra={"path": call.path, "reason": str(error)})
        if call.answered:
            log.warning("registry.cut", extra={"path": call.path, "reason": str(refusal)})
            return
        if refusal.http_status >= 500:
            log.warning("registry.failed", extra={"path": call.path, "reason": str(refusal)})
        headers = {"Content-Type": "application/json", **refusal.headers}
        await call.answer(refusal.http_status, refusal.body(), headers=headers)

    async def _serve(self, call: Call) -> None:
        if call.path == "/healthz":
            await call.answer_json({"ok": True})
            return
        header = call.headers.get("authorization", "")
        if call.path == "/v2/_catalog" and call.method == "GET":
            await self._catalog(call, header)
            return
        handlers, call.parts = self._route(call)
        if call.method not in handlers:
            await self._gatekeeper.admit(header)
            if call.path.rstrip("/") == "/v2" and call.method in _READING:
                await call.answer_json({})
                return
            raise _unsupported(call, handlers)
        await handlers[call.method](call, await self._repository(call, header))

    def _route(self, call: Call) -> tuple[dict[str, Handler], dict[str, str]]:
        for pattern, handlers in self._routes:
            if (match := pattern.fullmatch(call.path)) is not None:
                return handlers, match.groupdict()
        return {}, {}

    async def _repository(self, call: Call, header: str) -> Repository:
        name, parts = call.parts["name"], call.parts
        push = call.method not in _READING
        if not is_repository(name):
            await self._gatekeeper.admit(header)
            raise refusals.Refusal(400, "NAME_INVALID", f"`{name[:100]}` is not the name of a repository")
        if self._gatekeeper.is_host(header) and not push:
            return await self._of_host(call, name)
        access = await self._gatekeeper.repository(header, name, push=push)
        if "digest" in parts and not is_digest(parts["digest"]):
            raise refusals.bad_digest(parts["digest"])
        if "target" in parts and ":" in parts["target"] and not is_digest(parts["target"]):
            raise refusals.bad_digest(parts["target"])
        if "target" in parts and ":" not in parts["target"] and not is_tag(parts["target"]):
            raise refusals.Refusal(400, "TAG_INVALID", f"`{parts['target'][:100]}` is not a tag")
        # Who pushes gets a repository; and "nothing refers to it" is no 404, as the specification has it.
        making = (push and call.method != "DELETE") or "/referrers/" in call.path
        repository = await self._owned(access, make=making)
        if repository is None:
            raise _empty(call)
        return repository

    async def _of_host(self, call: Call, name: str) -> Repository:
        org_id, _, app = name.partition("/")
        repository = self._repositories.of(org_id, app)
        if not app or not self._repositories.owner(repository.layout):
            raise _empty(call)
        return repository

    async def _owned(self, access: RepositoryAccess, *, make: bool = False) -> Repository | None:
        return await asyncio.to_thread(
            self._repositories.owned, access.org_id, access.name, app_id=access.app_id, make=make
        )

    async def _source(self, call: Call, name: str) -> Repository | None:
        """A repository that a blob is to be mounted from, if whoever asks may read it."""
        if not is_repository(name):
            return None
        try:
            access = await self._gatekeeper.repository(call.headers.get("authorization", ""), name, push=False)
        except refusals.Refusal:
            return None
        return await self._owned(access)

    async def _catalog(self, call: Call, header: str) -> None:
        granted = await self._gatekeeper.all(header)
        names = [access.name for access in granted if await self._owned(access) is not None]
        shown, link = page(names, call)
        await call.answer_json({"repositories": shown}, **link)


def _empty(call: Call) -> refusals.Refusal:
    """An app that nothing was pushed to: whoever reaches the app may know that it is there."""
    if "target" in call.parts:
        return refusals.manifest_unknown(call.parts["target"])
    if "digest" in call.parts:
        return refusals.blob_unknown(call.parts["digest"])
    if "id" in call.parts:
        return refusals.upload_unknown()
    return refusals.Refusal(404, "NAME_UNKNOWN", f"nothing was pushed to {quote(call.parts['name'])} so far")


def _unsupported(call: Call, handlers: dict[str, Handler]) -> refusals.Refusal:
    if not handlers:
        return refusals.Refusal(404, "UNSUPPORTED", "the registry has no such endpoint")
    return refusals.Refusal(
        405, "UNSUPPORTED", f"{call.method} is not supported here", headers={"Allow": ", ".join(handlers)}
    )
