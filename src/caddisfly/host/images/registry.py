"""Pulls from registries, over a network and from servers that both may fail in every way.

What can pass is tried again, a bounded number of times and with random waits: connection errors, 429, 5xx, silence, a
trickle, an early end. A download goes on where it stopped, also in a later pull, and what comes is held to its digest.
What cannot pass is said at once.

Redirects are followed by hand: at most five, never from https to http, and with the `Authorization` header only while
the origin stays the same; blob stores behind registries take signed URLs, and would log what they are sent.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar
from weakref import WeakValueDictionary

import httpx

from caddisfly.host.images.answers import (
    Transient,
    body_of,
    cause_of,
    error_code,
    raise_if_transient,
    unauthorised,
    unavailable,
)
from caddisfly.host.images.auth import (
    MAX_TOKEN_BYTES,
    AuthError,
    Challenge,
    Grant,
    basic,
    grant_from,
    token_request,
)
from caddisfly.host.images.blobs import BlobStore, Draft, digest_of
from caddisfly.host.images.image import Descriptor
from caddisfly.host.images.manifest import ACCEPT, MAX_MANIFEST_BYTES
from caddisfly.host.images.outside import OWN, Frontier, Outside, network_of
from caddisfly.host.images.reference import DOCKER_HUB, Reference, is_digest
from caddisfly.host.images.settings import Credentials, ImageSettings
from caddisfly.model.errors import Final, InvalidArgument, Problem, Unavailable
from caddisfly.model.registry import not_there

_T = TypeVar("_T")
_MAX_REDIRECTS = 5
_MAX_WAIT_S, _MAX_RETRY_AFTER_S = 10.0, 30.0
_MAX_ERROR_BYTES = 64 << 10
_PROGRESS = 1 << 20
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OWN_ADDRESS = re.compile(
    r"(localhost|127(\.\d{1,3}){3}|0(\.\d{1,3}){3}|169\.254(\.\d{1,3}){2}|\[::1?\]|\[fe80:[^\]]*\])(:\d+)?",
    re.IGNORECASE,
)
"""Loopback, unspecified and link-local addresses."""


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """One repository on one registry, and where to really ask for it."""

    registry: str
    repository: str
    base: str
    credentials: Credentials | None
    trusted: bool
    """Named by the operator, so that it may be anywhere."""

    @property
    def plain_http(self) -> bool:
        return self.base.startswith("http://")

    @property
    def key(self) -> tuple[str, str, str]:
        """What a grant is good for. Not by user name alone: who has a wrong password must not have another's access."""
        return self.registry, self.repository, basic(self.credentials) if self.credentials else ""


@dataclass(slots=True)
class _Pace:
    """Notices a download that is not silent but hopeless."""

    window_s: float
    min_rate: int
    since: float = field(default_factory=time.monotonic)
    received: int = 0

    def add(self, size: int) -> None:
        self.received += size
        now = time.monotonic()
        if now - self.since >= self.window_s:
            if self.received < self.min_rate * (now - self.since):
                raise Transient(f"it sends less than {self.min_rate} bytes per second")
            self.since, self.received = now, 0


class RegistryClient:
    """One per store; connections and tokens are shared by all pulls."""

    def __init__(self, settings: ImageSettings, *, blobs: BlobStore) -> None:
        self._settings = settings
        self._blobs = blobs
        self._slots = asyncio.Semaphore(settings.download_concurrency)
        self._grants: dict[tuple[str, str, str], Grant] = {}
        networks = [network_of(entry) for entry in settings.private_registries]
        self._frontier = Frontier(
            (*(network for network in networks if network), *(OWN if settings.local_registries else ()))
        )
        self._http: dict[bool, httpx.AsyncClient] = {}
        # Weak: a lock lives as long as somebody holds it or waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.transfers: dict[str, Draft] = {}
        """Downloads under way, by digest."""

    async def close(self) -> None:
        clients, self._http = self._http, {}
        for client in clients.values():
            await client.aclose()

    async def digest(self, reference: Reference, credentials: Credentials | None) -> str:
        """What the registry says the name points to, or nothing. Cheap, and not counted by rate limits on pulls."""
        endpoint = self._endpoint(reference, credentials)

        async def ask() -> str:
            path = f"/v2/{endpoint.repository}/manifests/{reference.target}"
            async with self._ask(endpoint, path, method="HEAD", headers={"Accept": ACCEPT}) as response:
                found = response.headers.get("Docker-Content-Digest", "") if response.status_code == 200 else ""
                return found if is_digest(found) else ""

        return await self._retrying(endpoint, ask)

    async def manifest(
        self, reference: Reference, credentials: Credentials | None, *, digest: str = ""
    ) -> tuple[bytes, str]:
        """The manifest of a name, or of the digest: content and media type. A digest is verified."""
        endpoint = self._endpoint(reference, credentials)
        target = digest or reference.target

        async def ask() -> tuple[bytes, str]:
            path = f"/v2/{endpoint.repository}/manifests/{target}"
            async with self._ask(endpoint, path, headers={"Accept": ACCEPT}) as response:
                if response.status_code != 200:
                    raise await self._refusal(response, endpoint, str(reference), manifest=True)
                data = await body_of(response, MAX_MANIFEST_BYTES)
                kind = response.headers.get("Content-Type", "")
            expected = target if is_digest(target) else response.headers.get("Docker-Content-Digest", "")
            if expected and digest_of(data) != expected:
                raise InvalidArgument(
                    f"the manifest of {reference} is not what its digest says",
                    why=f"{endpoint.registry} sent {digest_of(data)} as {expected}"[:300],
                    next="the registry, or something on the way from it, serves wrong content; it was thrown away",
                    status="digest_mismatch",
                )
            return data, kind

        return await self._retrying(endpoint, ask)

    async def download(self, reference: Reference, blob: Descriptor, credentials: Credentials | None) -> None:
        """Bring one blob into the store. It is there and right afterwards, or nothing is."""
        if self._blobs.has(blob.digest):
            return
        endpoint = self._endpoint(reference, credentials)
        async with self._locks.setdefault(blob.digest, asyncio.Lock()), self._slots:
            if not self._blobs.has(blob.digest):
                await self._download(endpoint, blob, what=f"blob {blob.digest} of {reference}")

    async def _download(self, endpoint: _Endpoint, blob: Descriptor, *, what: str) -> None:
        draft = await asyncio.to_thread(self._blobs.continued, blob.digest)
        if draft.size > blob.size:
            draft.restart()
        continued = draft.size > 0
        self.transfers[blob.digest] = draft
        try:
            async with asyncio.timeout(self._settings.download_timeout_s):
                await self._fill(endpoint, blob, draft)
                if continued and draft.digest != blob.digest:
                    # What was kept may have been damaged since. A registry is blamed for what it sent just now.
                    draft.restart()
                    await self._fill(endpoint, blob, draft)
            await _finished(asyncio.to_thread(self._blobs.commit, draft, expected=blob.digest, what=what))
        except TimeoutError:
            why = f"it took longer than {self._settings.download_timeout_s:g} seconds"
            raise unavailable(endpoint.registry, why) from None
        except Final:
            draft.discard()
            raise
        finally:
            del self.transfers[blob.digest]
            draft.close()  # what has come stays: the next pull goes on from there

    async def _fill(self, endpoint: _Endpoint, blob: Descriptor, draft: Draft) -> None:
        while not (draft.size and draft.size == blob.size):
            before = draft.size

            async def attempt() -> None:
                await self._read_blob(endpoint, blob, draft)

            def advanced(start: int = before) -> bool:
                return draft.size - start >= _PROGRESS

            # As long as each round brings a good piece it may go on: large layers on bad lines. The deadline ends it.
            try:
                return await self._retrying(endpoint, attempt, give_up=advanced)
            except Unavailable:
                if not advanced():
                    raise

    async def _read_blob(self, endpoint: _Endpoint, blob: Descriptor, draft: Draft) -> None:
        headers = {"Accept-Encoding": "identity"}
        if draft.size:
            headers["Range"] = f"bytes={draft.size}-"
        async with self._ask(endpoint, f"/v2/{endpoint.repository}/blobs/{blob.digest}", headers=headers) as response:
            resumed = response.headers.get("Content-Range", "").startswith(f"bytes {draft.size}-")
            if response.status_code == 416 or (response.status_code == 206 and not resumed):
                draft.restart()
                raise Transient("it does not continue a download where asked to")
            if response.status_code not in (200, 206):
                raise await self._refusal(response, endpoint, blob.digest, manifest=False)
            if response.status_code == 200:
                draft.restart()
            await self._copy(response, endpoint, blob, draft)
        if draft.size < blob.size:
            raise Transient(f"it ends after {draft.size} of {blob.size} bytes")

    async def _copy(self, response: httpx.Response, endpoint: _Endpoint, blob: Descriptor, draft: Draft) -> None:
        pace = _Pace(self._settings.stall_timeout_s, self._settings.min_rate_bytes_s)
        waiting = bytearray()
        try:
            async for piece in response.aiter_raw():
                waiting += piece
                pace.add(len(piece))
                if draft.size + len(waiting) > blob.size:
                    raise InvalidArgument(
                        f"blob {blob.digest} is longer than its manifest says",
                        why=f"{endpoint.registry} sends more than {blob.size} bytes",
                        next="push the image again",
                        status="wrong_size",
                    )
                if len(waiting) >= _PROGRESS:
                    full, waiting = waiting, bytearray()
                    await _finished(asyncio.to_thread(draft.write, full))
        finally:
            draft.write(waiting)  # also of a download that broke: the next attempt goes on from here

    @asynccontextmanager
    async def _ask(
        self, endpoint: _Endpoint, path: str, *, headers: dict[str, str], method: str = "GET"
    ) -> AsyncIterator[httpx.Response]:
        """One request with authorisation and redirects; the open response. Transient failures are raised as such."""
        http = await self._client(trusted=endpoint.trusted)
        try:
            response = await self._send(http, endpoint, method, endpoint.base + path, headers)
            if response.status_code == 401 and (challenge := response.headers.get("WWW-Authenticate")):
                await response.aclose()
                await self._authorise(http, endpoint, Challenge.parse(challenge))
                response = await self._send(http, endpoint, method, endpoint.base + path, headers)
            try:
                raise_if_transient(response)
                yield response
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            raise Transient(cause_of(error)) from error
        except AuthError as error:
            raise unauthorised(endpoint.registry, endpoint.repository, str(error)) from None

    async def _send(
        self, http: httpx.AsyncClient, endpoint: _Endpoint, method: str, url: str, headers: dict[str, str]
    ) -> httpx.Response:
        home = httpx.URL(url)
        here = home
        grant = self._grants.get(endpoint.key)
        for _ in range(_MAX_REDIRECTS + 1):
            allowed = _origin(here) == _origin(home) and grant is not None and grant.fresh
            extra = {"Authorization": grant.header} if allowed and grant else {}
            response = await http.send(http.build_request(method, here, headers=headers | extra), stream=True)
            if response.status_code not in _REDIRECTS or "Location" not in response.headers:
                return response
            await response.aclose()
            try:
                there = here.join(response.headers["Location"])
            except httpx.InvalidURL:
                raise unavailable(endpoint.registry, "it redirects to an address that cannot be read") from None
            if there.scheme != "https" and not (there.scheme == "http" and here.scheme == "http"):
                raise unavailable(endpoint.registry, f"it redirects to {there.scheme}, away from https")
            here = there
        raise unavailable(endpoint.registry, f"it redirects more than {_MAX_REDIRECTS} times")

    async def _authorise(self, http: httpx.AsyncClient, endpoint: _Endpoint, challenge: Challenge) -> None:
        if challenge.scheme == "basic" and endpoint.credentials:
            self._grants[endpoint.key] = Grant(basic(endpoint.credentials), float("inf"))
        elif challenge.scheme == "bearer":
            request = token_request(
                challenge,
                repository=endpoint.repository,
                credentials=endpoint.credentials,
                plain_http=endpoint.plain_http,
            )
            response = await http.send(request, stream=True)
            try:
                raise_if_transient(response)
                if response.status_code != 200:
                    raise AuthError(f"its token server answers {response.status_code}")
                self._grants[endpoint.key] = grant_from(await body_of(response, MAX_TOKEN_BYTES))
            finally:
                await response.aclose()
        else:
            raise AuthError("it wants credentials, and there are none for it")

    async def _retrying(
        self, endpoint: _Endpoint, work: Callable[[], Awaitable[_T]], *, give_up: Callable[[], bool] = lambda: False
    ) -> _T:
        attempts = self._settings.retry_attempts
        for attempt in range(1, attempts + 1):
            try:
                return await work()
            except Transient as error:
                if attempt == attempts or give_up():
                    raise unavailable(endpoint.registry, str(error), limited=error.limited) from error
                wait = random.uniform(0, min(_MAX_WAIT_S, self._settings.retry_base_s * 2**attempt))
                if error.retry_after_s is not None:
                    wait += min(error.retry_after_s, _MAX_RETRY_AFTER_S)
            await asyncio.sleep(wait)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _refusal(self, response: httpx.Response, endpoint: _Endpoint, what: str, *, manifest: bool) -> Problem:
        code = error_code(await body_of(response, _MAX_ERROR_BYTES, strict=False))
        if response.status_code in (401, 403):
            return unauthorised(
                endpoint.registry, endpoint.repository, f"it answers {response.status_code} {code}".strip()
            )
        if response.status_code == 404 and manifest:
            return not_there(what, registry=endpoint.registry, repository=endpoint.repository, detail=code)
        return InvalidArgument(
            f"{what} cannot be pulled",
            why=f"registry {endpoint.registry} answers {response.status_code} {code}".strip(),
            next="push the image again",
            status="registry_refused",
        )

    def _endpoint(self, reference: Reference, credentials: Credentials | None) -> _Endpoint:
        registry, settings = reference.registry, self._settings
        names = (registry, "docker.io") if registry == DOCKER_HUB else (registry,)
        known = next((settings.credentials[name] for name in names if name in settings.credentials), None)
        base = next((settings.mirrors[name] for name in names if name in settings.mirrors), "").rstrip("/")
        named = {registry, _host(registry)} & settings.private_registries
        trusted = bool(base or known or named or registry in settings.insecure_registries)
        if not base:
            own = _OWN_ADDRESS.fullmatch(registry) is not None
            plain = registry in settings.insecure_registries or own
            if own and not (settings.local_registries or trusted):
                raise InvalidArgument(
                    f"registry {registry} is an address of the host itself",
                    why="tenants name images, and the host's own services are not theirs to ask",
                    next=f'[images] insecure_registries = ["{registry}"], if that registry is meant for them',
                    status="registry_refused",
                )
            base = f"{'http' if plain else 'https'}://{registry}"
        return _Endpoint(registry, reference.repository, base, credentials or known, trusted)

    async def _client(self, *, trusted: bool) -> httpx.AsyncClient:
        if trusted not in self._http:
            # The system's certificates, not a bundled list: operators add their own authorities there.
            context = await asyncio.to_thread(ssl.create_default_context)
            if trusted not in self._http:
                limits = httpx.Limits(max_connections=64, max_keepalive_connections=8)
                self._http[trusted] = httpx.AsyncClient(
                    verify=context,
                    transport=None if trusted else Outside(self._frontier, context=context, limits=limits),
                    follow_redirects=False,
                    timeout=httpx.Timeout(self._settings.stall_timeout_s, connect=self._settings.connect_timeout_s),
                    limits=limits,
                    headers={"User-Agent": "caddisfly"},
                )
        return self._http[trusted]


def _host(registry: str) -> str:
    """The registry's name without its port."""
    return re.sub(r":\d+$", "", registry)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


async def _finished(work: Awaitable[_T]) -> _T:
    """Wait for a thread to its end, also when nobody waits for the result: it must not write to what is closed."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise
