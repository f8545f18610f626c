"""The asynchronous client. Its blocking twin has the same methods; what they do is in `calls` and `transport`."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx

from caddisfly.client import calls
from caddisfly.client.builds import AsyncBuilds
from caddisfly.client.calls import Call, Json, LogPage
from caddisfly.client.errors import ApiError, ConflictError, NotFoundError, RetryableError, TimedOut
from caddisfly.client.leases import AsyncLeases
from caddisfly.client.metadata import AsyncMetadata
from caddisfly.client.releases import AsyncReleases, AsyncScale
from caddisfly.client.secrets import AsyncSecrets
from caddisfly.client.transport import Target, understand, unreached

if TYPE_CHECKING:
    from caddisfly.client.attach import AsyncAttachment

_POLL_S = 0.25


class AsyncClient:
    """`base_url` is the root of the API: a Caddisfly's, or https://api.machines.dev. Close it, or use `async with`."""

    def __init__(self, base_url: str, *, token: str = "", retries: int = 4) -> None:
        self.target = Target(base_url=base_url, token=token, retries=retries)
        self._http = httpx.AsyncClient(headers=self.target.headers(), trust_env=False)
        self.apps = Apps(self)
        self.machines = Machines(self)
        self.logs = Logs(self)
        self.secrets = AsyncSecrets(self)
        self.builds = AsyncBuilds(self)
        self.releases = AsyncReleases(self)
        self.scale = AsyncScale(self)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def regions(self) -> Any:
        """The platform's regions."""
        return await self.send(calls.regions())

    async def organization_machines(
        self,
        org_slug: str = "personal",
        *,
        region: str = "",
        state: str = "",
        updated_after: str = "",
        include_deleted: bool = False,
        page_size: int = 0,
    ) -> AsyncIterator[Json]:
        """The Machines of all its apps, in short, asking for page after page as they are used.

        `updated_after` is RFC 3339. Raises `RetryableError` in the end if there are regions that did not answer.
        """
        missing: set[str] = set()
        cursor = ""
        while True:
            call = calls.organization_machines(
                org_slug,
                region=region,
                state=state,
                updated_after=updated_after,
                include_deleted=include_deleted,
                limit=page_size,
                cursor=cursor,
            )
            page = calls.machines_page(_object(await self.send(call)))
            missing.update(page.missing)
            for machine in page.machines:
                yield machine
            if not page.cursor or page.cursor == cursor:
                break
            cursor = page.cursor
        if missing:
            raise RetryableError(f"no Machines of {', '.join(sorted(missing))}: these regions did not answer")

    async def whoami(self) -> Any:
        """What the token is good for."""
        return await self.send(calls.current_token())

    async def send(self, call: Call) -> Any:
        """Send, and send again where that is safe. Raises `ApiError`."""
        for attempt in itertools.count():
            try:
                return await self._once(call)
            except ApiError as error:
                pause_s = self.target.pause(call, error, attempt)
                if pause_s is None:
                    raise
            await asyncio.sleep(pause_s)

    async def _once(self, call: Call) -> Any:
        try:
            response = await self._http.request(**self.target.arguments(call))
        except httpx.TransportError as error:
            raise unreached(call, error, self.target.base_url) from error
        return understand(call, response)


class Apps:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self, org_slug: str = "personal") -> Any:
        return await self._client.send(calls.apps(org_slug))

    async def get(self, name: str) -> Json:
        return _object(await self._client.send(calls.app(name)))

    async def create(
        self, name: str = "", *, org_slug: str = "personal", network: str = "", idempotency_key: str = ""
    ) -> Json:
        """Without a name the platform makes one up. With the same `idempotency_key` again it is the same app.

        Raises `FinalError` with `status` `name_taken`.
        """
        return _object(await self._client.send(calls.create_app(name, org_slug, network, idempotency_key)))

    async def delete(self, name: str, *, force: bool = True) -> None:
        """Destroys its Machines too."""
        await self._client.send(calls.delete_app(name, force))

    async def resolve_image(self, name: str, ref: str) -> Json:
        """What a Machine of the app that is made now would run: `reference` has the digest. Not on Fly."""
        return _object(await self._client.send(calls.resolve_image(name, ref)))

    async def create_deploy_token(self, name: str, *, label: str = "", expiry: str = "") -> Json:
        """A token that reaches this app alone; `token` is shown this once. `expiry` as in 24h, empty for 20 years."""
        return _object(await self._client.send(calls.create_deploy_token(name, name=label, expiry=expiry)))

    async def deploy_tokens(self, name: str) -> Any:
        """Those that were not revoked, without their secrets. Not on Fly, which has them elsewhere."""
        return await self._client.send(calls.deploy_tokens(name))

    async def revoke_deploy_token(self, name: str, id: str) -> None:
        """Raises `NotFoundError`. Not on Fly, which has them elsewhere."""
        await self._client.send(calls.revoke_deploy_token(name, id))


class Machines:
    """`id` is a Machine's id, `app` an app's name."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self.leases = AsyncLeases(client)
        self.metadata = AsyncMetadata(client)

    async def list(
        self,
        app: str,
        *,
        region: str = "",
        state: str = "",
        metadata: Mapping[str, str] | None = None,
        include_deleted: bool = False,
        include_leases: bool = False,
    ) -> Any:
        """With `include_leases`, each that is leased has a `lease`, without its nonce."""
        call = calls.machines(
            app,
            region=region,
            state=state,
            metadata=metadata or {},
            include_deleted=include_deleted,
            include_leases=include_leases,
        )
        return await self._client.send(call)

    async def get(self, app: str, id: str, *, include_leases: bool = False) -> Json:
        return _object(await self._client.send(calls.machine(app, id, include_leases)))

    async def create(
        self,
        app: str,
        config: Json,
        *,
        name: str = "",
        region: str = "",
        skip_launch: bool = False,
        skip_service_registration: bool = False,
        lease_ttl_s: int = 0,
        idempotency_key: str = "",
    ) -> Json:
        """Returns before it has booted: `wait` for `started`.

        With `skip_service_registration` it gets no traffic until `uncordon`. With `lease_ttl_s` it is leased from its
        first moment, and the reply has the `nonce`. With an `idempotency_key` it is tried again after a lost answer,
        and is one Machine however often it is sent; Fly does not know such keys.
        """
        call = calls.create_machine(
            app,
            config,
            name=name,
            region=region,
            skip_launch=skip_launch,
            skip_service_registration=skip_service_registration,
            lease_ttl_s=lease_ttl_s,
            key=idempotency_key,
        )
        return _object(await self._client.send(call))

    async def update(
        self,
        app: str,
        id: str,
        config: Json,
        *,
        current_version: str = "",
        skip_launch: bool = False,
        skip_service_registration: bool = False,
        lease_ttl_s: int = 0,
        min_secrets_version: int = 0,
        nonce: str = "",
    ) -> Json:
        """Replaces the whole config. Raises `ConflictError` when `current_version` is not current.

        Without `skip_service_registration` it gets traffic afterwards, cordoned or not before.
        """
        call = calls.update_machine(
            app,
            id,
            config,
            current_version=current_version,
            skip_launch=skip_launch,
            skip_service_registration=skip_service_registration,
            lease_ttl_s=lease_ttl_s,
            min_secrets_version=min_secrets_version,
            nonce=nonce,
        )
        return _object(await self._client.send(call))

    async def delete(self, app: str, id: str, *, force: bool = False, nonce: str = "") -> None:
        await self._client.send(calls.delete_machine(app, id, force, nonce))

    async def start(self, app: str, id: str, *, nonce: str = "") -> Json:
        return _object(await self._client.send(calls.start(app, id, nonce)))

    async def stop(self, app: str, id: str, *, signal: str = "", timeout: str = "", nonce: str = "") -> None:
        """`timeout` is a duration such as `30s`, between the signal and the kill."""
        await self._client.send(calls.stop(app, id, signal=signal, timeout=timeout, nonce=nonce))

    async def restart(
        self, app: str, id: str, *, force_stop: bool = False, timeout: str = "", signal: str = "", nonce: str = ""
    ) -> None:
        await self._client.send(
            calls.restart(app, id, force_stop=force_stop, timeout=timeout, signal=signal, nonce=nonce)
        )

    async def suspend(self, app: str, id: str, *, nonce: str = "") -> None:
        """Returns before its memory is kept: `wait` for `suspended`."""
        await self._client.send(calls.suspend(app, id, nonce))

    async def cordon(self, app: str, id: str, *, nonce: str = "") -> None:
        """No traffic for it, and no request wakes it. It runs on."""
        await self._client.send(calls.cordon(app, id, nonce))

    async def uncordon(self, app: str, id: str, *, nonce: str = "") -> None:
        await self._client.send(calls.uncordon(app, id, nonce))

    async def signal(self, app: str, id: str, name: str) -> None:
        """`name` is such as `SIGHUP`."""
        await self._client.send(calls.signal(app, id, name))

    async def wait(self, app: str, id: str, *states: str, timeout_s: float = 300.0, version: str = "") -> Json:
        """Return once it is in one of `states` (default `started`). Raises `TimedOut` after `timeout_s` seconds.

        The API waits for a minute at most; this asks again for as long as there is time.
        """
        end = time.monotonic() + timeout_s
        while True:
            once_s = max(1, min(calls.WAIT_MAX_S, round(end - time.monotonic())))
            call = calls.wait(app, id, states=states or ("started",), timeout_s=once_s, version=version)
            try:
                return _object(await self._client.send(call))
            except TimedOut:
                if time.monotonic() >= end:
                    raise

    async def exec(
        self, app: str, id: str, command: Sequence[str], *, stdin: str = "", timeout_s: int = 30, container: str = ""
    ) -> Json:
        """Run a command inside, or in one of several containers; the reply has `exit_code`, `stdout`, `stderr`."""
        return _object(
            await self._client.send(
                calls.execute(app, id, command, stdin=stdin, timeout_s=timeout_s, container=container)
            )
        )

    async def attach(
        self,
        app: str,
        id: str,
        command: Sequence[str] = (),
        *,
        window: tuple[int, int] | None = None,
        term: str = "",
        user: str = "",
        container: str = "",
        stop_after: bool = False,
    ) -> AsyncAttachment:
        """Run a command with its streams open, in a terminal of `window` (columns, rows) or without one.

        Without a command it is a shell. `term` is what the terminal can do, as `TERM`; `user` one of the image's own.
        Returns once it runs. With `stop_after` the Machine is stopped when this is over, however it ends. Not on Fly.
        """
        from caddisfly.client.attach import AsyncAttachment  # what it imports, few need

        call = calls.attach(
            app, id, command, window=window, term=term, user=user, container=container, stop_after=stop_after
        )
        return await AsyncAttachment.open(self._client.target, call)

    async def events(self, app: str, id: str, *, limit: int = 20) -> Any:
        """Newest first."""
        return await self._client.send(calls.events(app, id, limit))

    async def versions(self, app: str, id: str) -> Any:
        """What it was told to be, newest first: `version` and `user_config` of each."""
        return await self._client.send(calls.versions(app, id))

    async def ps(self, app: str, id: str, *, sort_by: str = "", order: str = "") -> Any:
        """Its processes. `sort_by` is pid, stime, rtime, command, directory, cpu or rss; `order` is asc or desc."""
        return await self._client.send(calls.processes(app, id, sort_by=sort_by, order=order))

    @asynccontextmanager
    async def lease(self, app: str, id: str, *, ttl_s: int = 0, description: str = "") -> AsyncIterator[str]:
        """Hold the Machine's Lease for this block: `as` gives the nonce, which every change in it must send.

        Released in the end, however the block ends, unless it has run out before: `ttl_s` seconds, or as long as the
        server sees fit. Raises `LeaseHeldError`.
        """
        taken = await self.leases.acquire(app, id, ttl_s=ttl_s, description=description)
        nonce = str(taken["nonce"])
        try:
            yield nonce
        except BaseException as error:
            try:
                await self._give_back(app, id, nonce)
            except ApiError as late:
                error.add_note(f"its Lease could not be released and stays until it ends: {late.text}")
            raise
        await self._give_back(app, id, nonce)

    async def _give_back(self, app: str, id: str, nonce: str) -> None:
        try:
            await self.leases.release(app, id, nonce)
        except (NotFoundError, ConflictError):
            return  # it ran out, or went with the Machine: there is nothing to give back


class Logs:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def page(self, app: str, *, machine: str = "", region: str = "", next_token: str = "") -> LogPage:
        """The newest lines, or those after the cursor `next_token`."""
        call = calls.logs(app, machine=machine, region=region, next_token=next_token)
        return calls.log_page(await self._client.send(call), next_token)

    async def follow(self, app: str, *, machine: str = "", region: str = "") -> AsyncIterator[Json]:
        """Entries for ever, the newest that are already there first."""
        next_token = ""
        while True:
            asked_at = time.monotonic()
            page = await self.page(app, machine=machine, region=region, next_token=next_token)
            next_token = page.next_token
            for entry in page.entries:
                yield entry
            if not page.entries:  # a server that holds empty polls has spent this time already
                await asyncio.sleep(max(0.0, _POLL_S - (time.monotonic() - asked_at)))


def _object(reply: Any) -> Json:
    return reply if isinstance(reply, dict) else {}
