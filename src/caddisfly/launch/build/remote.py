"""A build on a host of the platform: started, followed, cancelled.

The log is read page by page from an offset, so a connection that breaks costs nothing: the next page begins where the
last one ended. Only an answer that is final ends the following, or nobody answering for a long time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from caddisfly.client import Client, NotFoundError, RetryableError
from caddisfly.client.calls import Call, Json
from caddisfly.launch.build.display import Display
from caddisfly.model import ids
from caddisfly.model.errors import FailedPrecondition

_HELD_S = 20
_PATIENCE_S = 300.0
_PAUSE_S = 0.5
_MOST_PAUSE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be built. `context` is the digest of its manifest, `dockerfile` what messages call it."""

    context: str
    dockerfile: str
    tag: str
    target: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    no_cache: bool = False


@dataclass(frozen=True, slots=True)
class RegistryPlace:
    """`host` is how images name it, `url` where it is asked."""

    host: str
    url: str


def registry(client: Client) -> RegistryPlace:
    """The platform's registry. Raises `FailedPrecondition` when it has none."""
    try:
        found = client.send(Call(method="GET", path="/v1/platform/registry"))
        return RegistryPlace(str(found["host"]), str(found["url"]))
    except (NotFoundError, KeyError) as error:
        raise FailedPrecondition(
            "this platform does not say where its registry is",
            why="it has none, or is older than these commands",
            next="build here instead: caddis build --local-only",
        ) from error


class Builds:
    """Those of one app."""

    def __init__(self, client: Client, app: str) -> None:
        self._client = client
        self._app = app

    def start(self, order: Order) -> Json:
        """Sent again when the answer is lost: the key makes it one build. Ctrl-C leaves none behind."""
        key = ids.ulid()
        try:
            return self._start(order, key)
        except KeyboardInterrupt:
            self._client.builds.cancel(self._app, str(self._start(order, key)["id"]))
            raise

    def _start(self, order: Order, key: str) -> Json:
        return _object(
            self._client.builds.start(
                self._app,
                order.context,
                tag=order.tag,
                dockerfile=order.dockerfile,
                target=order.target,
                args=order.args,
                labels=order.labels,
                secrets=order.secrets,
                no_cache=order.no_cache,
                idempotency_key=key,
            )
        )

    def follow(self, id: str, display: Display) -> Json:
        """Show it until it has ended, and return what it is then. Ctrl-C cancels it on the host."""
        try:
            return self._follow(id, display)
        except KeyboardInterrupt:
            display.say(f"Cancelling build {id}")
            self._client.builds.cancel(self._app, id)
            raise

    def _follow(self, id: str, display: Display) -> Json:
        offset, silent_since, tries = 0, 0.0, 0
        while True:
            try:
                page = self._client.builds.log(self._app, id, offset=offset, wait_s=_HELD_S)
                build = _object(self._client.builds.get(self._app, id)) if page.get("ended") else None
            except RetryableError as error:
                tries += 1
                now = time.monotonic()
                silent_since = silent_since or now
                if now - silent_since > _PATIENCE_S:
                    raise
                if tries == 1:
                    display.say(f"The connection broke ({error.text}); the build goes on, and so does this")
                time.sleep(max(error.retry_after_s, min(_MOST_PAUSE_S, _PAUSE_S * 2 ** min(tries, 6))))
                continue
            silent_since, tries = 0.0, 0
            for line in page.get("lines") or ():
                display.feed(line)
            offset = max(offset, int(page.get("next_offset") or 0))
            if build is not None:
                return build
            display.doing("Waiting for its turn" if page.get("state") == "queued" else "Building")


def _object(reply: object) -> Json:
    return reply if isinstance(reply, dict) else {}
