"""Builds as control sees them: each is on one host, which is asked.

An app's builds go to the same host as long as it is up, so that they find the cache of those before: the first of the
hosts by a hash of app and host (rendezvous hashing), which moves few apps when hosts come and go. There is no record
of who has which build; when the first does not know one, the others are asked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from pydantic import BaseModel

from caddisfly.bus import contract
from caddisfly.bus.rpc import Method
from caddisfly.control.auth.passes import Passes
from caddisfly.control.hosts import Hosts
from caddisfly.control.machines import Machines
from caddisfly.model import ids
from caddisfly.model.app import App
from caddisfly.model.errors import InvalidArgument, NotFound, Problem, Unavailable, Unimplemented

Request = TypeVar("Request", bound=BaseModel)
Reply = TypeVar("Reply", bound=BaseModel)

LONGEST_WAIT_S = 20
_PASS_S = 6 * 3600
_ID = re.compile(r"[0-9a-f]{14}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SECRET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_MOST_NAMED = 200


class Builds:
    """Of all apps; callers have checked already that the app is within reach."""

    def __init__(self, machines: Machines, hosts: Hosts, passes: Passes) -> None:
        self._machines, self._hosts, self._passes = machines, hosts, passes

    async def start(self, app: App, request: contract.StartBuild) -> contract.BuildReply:
        """Raises `InvalidArgument`, `Unimplemented` when no host builds, `Exhausted` when too many wait."""
        _check(request)
        token = self._passes.mint(app_id=app.id, org_id=app.organization.id, ttl_s=_PASS_S)
        request = request.model_copy(update={"token": token})
        refusal: Problem | None = None
        for host_id in self._by_preference(app):
            try:
                return await self._machines.ask(host_id, contract.START_BUILD, request)
            except Unimplemented as problem:  # a host that does not build
                refusal = problem
        raise refusal or _nobody()

    async def of(self, app: App) -> list[dict[str, Any]]:
        """Newest first. Those on hosts that do not answer are left out."""
        found: list[dict[str, Any]] = []
        for host_id in self._by_preference(app):
            try:
                reply = await self._machines.ask(host_id, contract.LIST_BUILDS, contract.ListBuilds(app_id=app.id))
            except Unavailable:
                continue
            found += reply.builds
        return sorted(found, key=lambda build: str(build["created_at"]), reverse=True)

    async def show(self, app: App, build_id: str) -> contract.BuildReply:
        return await self._ask_who_has(app, contract.SHOW_BUILD, contract.BuildCall(build_id=build_id, app_id=app.id))

    async def cancel(self, app: App, build_id: str) -> contract.BuildReply:
        return await self._ask_who_has(app, contract.CANCEL_BUILD, contract.BuildCall(build_id=build_id, app_id=app.id))

    async def read_log(self, app: App, build_id: str, *, offset: int, wait_s: float) -> contract.BuildLogPage:
        """Raises `InvalidArgument` for an offset that is none."""
        if offset < 0:
            raise InvalidArgument(f"invalid offset {offset}", next="send next_offset of the last reply, or 0")
        wait_s = max(0.0, min(wait_s, LONGEST_WAIT_S))
        call = contract.ReadBuildLog(build_id=build_id, app_id=app.id, offset=offset, wait_s=wait_s)
        return await self._ask_who_has(app, contract.READ_BUILD_LOG, call)

    async def follow(self, app: App, build_id: str, *, offset: int) -> AsyncIterator[dict[str, Any]]:
        """Lines from an offset on, as they come, until the build has ended."""
        while True:
            page = await self.read_log(app, build_id, offset=offset, wait_s=LONGEST_WAIT_S)
            for line in page.lines:
                yield line
            offset = page.next_offset
            if page.ended:
                return

    async def _ask_who_has(self, app: App, method: Method[Request, Reply], request: Request) -> Reply:
        if not _ID.fullmatch(str(getattr(request, "build_id", ""))):
            raise build_not_found()
        away: Unavailable | None = None
        hosts = self._by_preference(app)
        for host_id in hosts:
            try:
                return await self._machines.ask(host_id, method, request)
            except NotFound:
                continue
            except Unavailable as problem:
                away = problem
        if away is not None or not hosts:
            raise away or _nobody()
        raise build_not_found()

    def _by_preference(self, app: App) -> list[str]:
        def weight(host_id: str) -> bytes:
            return hashlib.sha256(f"{app.id} {host_id}".encode()).digest()

        return sorted((host.id for host in self._hosts.up), key=weight)


def new_id(app: App, key: str) -> str:
    """An id for a build: with a `key`, always the same, so that asking twice makes one."""
    return hashlib.sha256(f"{app.id} {key}".encode()).hexdigest()[:14] if key else ids.machine_id()


def build_not_found() -> NotFound:
    return NotFound("build not found", why="it is of another app, or was forgotten", next="look at the app's builds")


def _nobody() -> Unavailable:
    return Unavailable("no host that builds is up", why="no heartbeat was heard lately", next="caddis status")


def _check(request: contract.StartBuild) -> None:
    """Raises `InvalidArgument` that names the field."""
    if not _DIGEST.fullmatch(request.context):
        raise InvalidArgument(
            "invalid context, must be the digest of a manifest", next="push the context first: caddis build does it"
        )
    if not _TAG.fullmatch(request.tag):
        raise InvalidArgument(f"invalid tag {request.tag[:128]!r}", next="use letters, digits, `_`, `.` and `-`")
    for field, names, form in (
        ("args", request.args, _NAME),
        ("secrets", request.secrets, _SECRET),
        ("labels", request.labels, None),
    ):
        if len(names) > _MOST_NAMED:
            raise InvalidArgument(f"invalid {field}, more than {_MOST_NAMED}")
        for name in names:
            if (form and not form.fullmatch(name)) or not name or len(name) > 256 or "=" in name or "\0" in name:
                raise InvalidArgument(f"invalid {field}, {name[:128]!r} is not a name")
    texts = (request.target, request.dockerfile, *request.args.values(), *request.labels.values())
    if any("\0" in text for text in texts) or request.target.startswith("-"):
        raise InvalidArgument("invalid text: it must have no zero bytes, and a target no leading dash")
