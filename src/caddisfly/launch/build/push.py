"""Sending to a registry what it does not have yet: the pushing half of OCI distribution.

A blob that is there already costs one HEAD. A small one costs one request more; a large one goes in chunks, and after a
broken connection the registry is asked how far it got. Tries are counted only while nothing arrives: a large blob on a
bad line gets through as long as each try brings a piece of it.
"""

from __future__ import annotations

import json
import random
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TypeVar
from urllib.parse import quote

import httpx

import caddisfly
from caddisfly.model.context import Descriptor
from caddisfly.model.errors import (
    Aborted,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Problem,
    Unauthenticated,
    Unavailable,
)

CHUNK_BYTES = 16 << 20
WHOLE_BYTES = 2 << 20
"""Up to here a blob goes in the request that announces it."""
_TRIES = 5
_PAUSE_S = 0.3
_MOST_PAUSE_S = 20.0
_CONNECT_S = 10.0
_ANSWER_S = 120.0

_T = TypeVar("_T")
Arrived = Callable[[int], None]
"""Told how many more bytes have arrived."""


class _Broken(Exception):
    """A try that failed in a way that another may not. `after_s` is what the registry asks for."""

    def __init__(self, why: str, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.after_s = after_s


class _Forgotten(Exception):
    """The upload has to begin again: the registry knows nothing of it any more, or has something else."""


@dataclass(slots=True)
class _Upload:
    """`url` changes with every answer; `offset` is how much the registry has."""

    url: httpx.URL
    offset: int = 0


class Registry:
    """One repository of a registry. May be used by several threads. Close it, or use `with`.

    `stop` ends every method soon with `Aborted`, from another thread.
    """

    def __init__(
        self,
        base_url: str,
        repository: str,
        *,
        user: str = "x",
        password: str = "",
        chunk_bytes: int = CHUNK_BYTES,
        pause_s: float = _PAUSE_S,
    ) -> None:
        self.base_url = httpx.URL(base_url.rstrip("/"))
        self.repository = repository
        self._prefix = f"{self.base_url}/v2/{quote(repository)}"
        self._auth = httpx.BasicAuth(user, password) if password else None
        self._chunk_bytes = chunk_bytes
        self._pause_s = pause_s
        self._stopped = threading.Event()
        self._http = httpx.Client(
            verify=ssl.create_default_context() if self.base_url.scheme == "https" else False,
            headers={"user-agent": f"caddisfly/{caddisfly.__version__}"},
            timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S),
            trust_env=False,
        )

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def stop(self) -> None:
        self._stopped.set()

    def has(self, digest: str) -> bool:
        def ask() -> bool:
            response = self._send("HEAD", f"{self._prefix}/blobs/{digest}")
            if response.status_code == 404:
                return False
            self._expect(response, 200)
            return True

        return self._trying(ask)

    def push(self, blob: Descriptor, content: IO[bytes], *, arrived: Arrived = lambda _: None) -> bool:
        """Make it be there. False when it was already. `content` can be rewound."""
        if self.has(blob.digest):
            return False
        tries = 0
        while True:
            try:
                self._upload(blob, content, arrived)
                return True
            except _Forgotten:
                tries += 1
                if tries == _TRIES:
                    raise self._unavailable(f"it lost the upload, {tries} times in a row") from None

    def put_manifest(self, content: bytes, *, media_type: str, tag: str = "") -> str:
        """The digest that it has. What it points to must be there."""
        digest = Descriptor.of(media_type, content).digest

        def ask() -> None:
            url = f"{self._prefix}/manifests/{tag or digest}"
            self._expect(self._send("PUT", url, content=content, headers={"content-type": media_type}), 201)

        self._trying(ask)
        return digest

    def _upload(self, blob: Descriptor, content: IO[bytes], arrived: Arrived) -> None:
        upload = self._trying(lambda: self._begin(blob, content, arrived))
        if upload is None:
            return
        while blob.size - upload.offset > self._chunk_bytes:
            self._chunk(blob, content, upload, arrived)
        self._finish(blob, content, upload, arrived)

    def _begin(self, blob: Descriptor, content: IO[bytes], arrived: Arrived) -> _Upload | None:
        """None when it is there by now."""
        url = f"{self._prefix}/blobs/uploads/"
        if blob.size > WHOLE_BYTES:
            response = self._send("POST", url)
        else:
            headers = {"content-type": "application/octet-stream"}
            whole = _piece(content, 0, blob.size)
            response = self._send("POST", f"{url}?digest={blob.digest}", content=whole, headers=headers)
            if response.status_code == 201:
                arrived(blob.size)
                return None
        self._expect(response, 202)
        return _Upload(self._location(response))

    def _chunk(self, blob: Descriptor, content: IO[bytes], upload: _Upload, arrived: Arrived) -> None:
        def send() -> None:
            piece = _piece(content, upload.offset, min(self._chunk_bytes, blob.size - upload.offset))
            headers = {
                "content-type": "application/octet-stream",
                "content-range": f"{upload.offset}-{upload.offset + len(piece) - 1}",
            }
            response = self._send("PATCH", upload.url, content=piece, headers=headers)
            if response.status_code == 416:
                raise _Broken("it has another part of the blob than it was sent")
            self._expect(response, 202, forgotten=404)
            upload.url = self._location(response)
            self._advance(upload, _reached(response, upload.offset + len(piece)), arrived)

        self._trying(send, again=lambda: self._resume(upload, arrived))

    def _finish(self, blob: Descriptor, content: IO[bytes], upload: _Upload, arrived: Arrived) -> None:
        def send() -> None:
            piece = _piece(content, upload.offset, blob.size - upload.offset)
            headers = {"content-type": "application/octet-stream"}
            if upload.offset and piece:
                headers["content-range"] = f"{upload.offset}-{blob.size - 1}"
            url = upload.url.copy_merge_params({"digest": blob.digest})
            response = self._send("PUT", url, content=piece, headers=headers)
            if response.status_code in (404, 416) and self.has(blob.digest):
                return  # the answer to an earlier try was lost, not the blob
            if response.status_code == 416:
                raise _Broken("it has another part of the blob than it was sent")
            if response.status_code == 400 and _code(response) == "DIGEST_INVALID":
                raise _Forgotten  # what arrived is not what was sent
            self._expect(response, 201, forgotten=404)

        before = upload.offset
        self._trying(send, again=lambda: self._resume(upload, arrived))
        arrived(blob.size - max(before, upload.offset))

    def _resume(self, upload: _Upload, arrived: Arrived) -> bool:
        """Ask how far it got. Whether that is further than before."""
        response = self._send("GET", upload.url)
        if response.status_code == 404:
            return False  # perhaps it is whole: the next try finds out
        self._expect(response, 204)
        upload.url = self._location(response, upload.url)
        before = upload.offset
        self._advance(upload, _reached(response, 0), arrived)
        return upload.offset > before

    @staticmethod
    def _advance(upload: _Upload, offset: int, arrived: Arrived) -> None:
        if offset > upload.offset:
            arrived(offset - upload.offset)
        upload.offset = offset

    def _send(
        self, method: str, url: str | httpx.URL, *, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        if self._stopped.is_set():
            raise Aborted("the upload was stopped")
        target = httpx.URL(url)
        home = (target.scheme, target.host, target.port) == (
            self.base_url.scheme,
            self.base_url.host,
            self.base_url.port,
        )
        try:
            response = self._http.request(
                method, target, content=content, headers=headers, auth=self._auth if home else None
            )
        except httpx.TransportError as error:
            raise _Broken(_cause(error)) from error
        if response.status_code == 429 or (response.status_code >= 500 and response.status_code != 507):
            after = response.headers.get("retry-after", "")
            after_s = float(after) if after.isdecimal() and len(after) < 6 else 0.0
            raise _Broken(_told(response) or f"it answers {response.status_code}", after_s)
        return response

    def _trying(self, work: Callable[[], _T], *, again: Callable[[], bool] = lambda: False) -> _T:
        """`again` runs before each further try, and says whether the last one has achieved something."""
        tries = 0
        while True:
            try:
                if tries and again():
                    tries = 0
                return work()
            except _Broken as broken:
                tries += 1
                if tries == _TRIES:
                    raise self._unavailable(str(broken)) from broken
                pause_s = max(broken.after_s, self._pause_s * 2**tries * random.uniform(0.5, 1.0))
            self._stopped.wait(min(pause_s, _MOST_PAUSE_S))

    def _location(self, response: httpx.Response, default: httpx.URL | None = None) -> httpx.URL:
        given = response.headers.get("location", "")
        if not given:
            if default is not None:
                return default
            raise self._unavailable("it does not say where an upload goes on")
        return response.url.join(given)

    def _expect(self, response: httpx.Response, status: int, *, forgotten: int = 0) -> None:
        if response.status_code == status:
            return
        if response.status_code == forgotten:
            raise _Forgotten
        told = _told(response) or f"it answers {response.status_code}"
        where = f"registry {self.base_url.netloc.decode()}"
        if response.status_code == 401:
            raise Unauthenticated(f"{where} does not know you", why=told, next="caddis auth login")
        if response.status_code == 403:
            raise PermissionDenied(f"{where} refuses a push to {self.repository}", why=told)
        if response.status_code == 404:
            raise NotFound(f"{where} has no repository {self.repository}", why=told, next="caddis apps list")
        if response.status_code in (413, 507):
            raise FailedPrecondition(
                f"{where} has no room for this", why=told, next="see .dockerignore for what a build does not need"
            )
        raise InvalidArgument(f"{where} refuses the push to {self.repository}", why=told)

    def _unavailable(self, why: str) -> Problem:
        return Unavailable(
            f"registry {self.base_url.netloc.decode()} does not take it",
            why=why,
            next="run it again: what has arrived is not sent twice; on the platform's own computer, `caddis status`",
        )


def _piece(content: IO[bytes], offset: int, size: int) -> bytes:
    content.seek(offset)
    return content.read(size)


def _reached(response: httpx.Response, default: int) -> int:
    """`Range: 0-9` means ten bytes, and `0-0` none: nobody stops after one."""
    last = response.headers.get("range", "").rpartition("-")[2]
    if not last.isdecimal() or len(last) > 18:
        return default
    return int(last) + 1 if int(last) else 0


def _code(response: httpx.Response) -> str:
    return _told(response).partition(" ")[0]


def _told(response: httpx.Response) -> str:
    """The registry's own words."""
    try:
        first = json.loads(response.content)["errors"][0]
        return " ".join(str(first[name]) for name in ("code", "message") if first.get(name))[:500]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""


def _cause(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return "it cannot be reached in time"
    if isinstance(error, httpx.TimeoutException):
        return "it does not answer in time"
    return str(error) or type(error).__name__
