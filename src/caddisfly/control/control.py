"""The parts of one control process, put together, and the order in which they start.

It serves once it has a copy of the catalog, or after a moment without one. Without the database its answers are 503;
without the bus it still knows who you are and which apps there are. Only a database from a newer version keeps it from
starting.
"""

from __future__ import annotations

import asyncio
import logging

from caddisfly.bus.connection import Bus
from caddisfly.bus.projection import CATALOG_WAIT_S, Projection
from caddisfly.control.auth.access import Verifier
from caddisfly.control.auth.passes import Passes
from caddisfly.control.builds import Builds
from caddisfly.control.deletion import Deletion
from caddisfly.control.hosts import Hosts
from caddisfly.control.images import Images
from caddisfly.control.logs import Logs
from caddisfly.control.machines import Machines
from caddisfly.control.placement.market import Market
from caddisfly.control.publishing import AppPublication
from caddisfly.control.records import schema
from caddisfly.control.records.accounts import Accounts
from caddisfly.control.records.apps import Apps
from caddisfly.control.records.creations import Creations
from caddisfly.control.records.database import Database
from caddisfly.control.records.releases import Releases
from caddisfly.control.records.scales import Scales
from caddisfly.control.records.secrets import Secrets
from caddisfly.control.repositories import Repositories
from caddisfly.control.secrets import Safe
from caddisfly.control.sessions import Sessions
from caddisfly.control.settings import ControlSettings
from caddisfly.control.standbys import Standbys
from caddisfly.model.errors import Problem, Unavailable

log = logging.getLogger(__name__)

_RETRY_S = 0.5


class Control:
    """Everything that a request may need. `start` and `stop` run on the loop that serves."""

    def __init__(self, settings: ControlSettings, *, bus: Bus | None = None) -> None:
        self.settings = settings
        self.database = Database(
            settings.database(), timeout_s=settings.database_timeout_s, pool_size=settings.database_pool_size
        )
        self.accounts = Accounts(self.database)
        self.apps = Apps(self.database, cache_s=settings.app_cache_s)
        self.creations = Creations(self.database)
        self.releases = Releases(self.database)
        self.scales = Scales(self.database)
        self.safe = Safe(Secrets(self.database), key=settings.secrets_key.get_secret_value())
        self.verifier = Verifier(self.accounts, cache_s=settings.token_cache_s)
        self.bus = bus or Bus(url=settings.bus_url, token=settings.bus_token.get_secret_value(), name="control")
        self.projection = Projection(self.bus)
        self.hosts = Hosts(self.bus, self.projection, silence_s=settings.host_silence_s)
        self.market = Market(
            self.bus,
            self.hosts,
            region=settings.region,
            isolation=settings.isolation,
            timeout_s=settings.bid_timeout_s,
        )
        self.machines = Machines(
            bus=self.bus,
            projection=self.projection,
            hosts=self.hosts,
            market=self.market,
            apps=self.apps,
            creations=self.creations,
            safe=self.safe,
            settle_s=settings.read_your_writes_timeout_s,
        )
        self.standbys = Standbys(self.machines, self.projection, self.hosts, after_s=settings.standby_after_s)
        self.publication = AppPublication(self.bus, self.apps, every_s=settings.apps_reload_s)
        self.deletion = Deletion(bus=self.bus, apps=self.apps, machines=self.machines, publication=self.publication)
        self.logs = Logs(self.bus, self.machines, hold_s=settings.log_hold_s)
        self.sessions = Sessions(self.bus, self.machines)
        passes = Passes(settings.bus_token.get_secret_value())
        self.builds = Builds(self.machines, self.hosts, passes)
        self.repositories = Repositories(
            self.bus, self.verifier, self.apps, self.machines, passes=passes, domain=settings.domain
        )
        self.images = Images(self.machines, self.hosts, self.repositories)
        self._migrated = False
        self._keeping: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    async def start(self) -> None:
        """Raises `FailedPrecondition` for a database from a newer version, and nothing else for what is only away."""
        try:
            await self._migrate()
        except Unavailable:
            log.warning("control.starts_without_database")
        self.hosts.start()
        self.projection.start()
        self.repositories.start()
        self.bus.open()
        if not await self.projection.arrived(timeout_s=CATALOG_WAIT_S):
            log.warning("control.starts_without_catalog", extra={"waited_s": CATALOG_WAIT_S})
        self.standbys.start()
        self._keeping = asyncio.create_task(self._keep(), name="control-keep")

    async def stop(self) -> None:
        # A flag beside the cancellation: Python 3.11's wait_for, which the drivers use, may swallow the latter.
        self._ended.set()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self.standbys.stop()
        await self.repositories.stop()
        await self.publication.stop()
        await self.projection.stop()
        await self.bus.close()
        await self.verifier.close()
        await self.database.close()

    async def _migrate(self) -> None:
        await schema.upgrade(self.settings.database(), timeout_s=self.settings.database_timeout_s)
        self._migrated = True

    async def _keep(self) -> None:
        """Read the apps again and again: for the catalog, and to go on with deletions."""
        while not self._ended.is_set():
            try:
                if not self._migrated:
                    await self._migrate()
                records = await self.publication.load()
                await self.deletion.resume(records)
                pause_s = self.settings.apps_reload_s
            except Unavailable:
                pause_s = min(_RETRY_S, self.settings.apps_reload_s)
            except Problem as problem:
                log.error("control.keep_failed", extra={"reason": str(problem)})
                pause_s = self.settings.apps_reload_s
            try:
                async with asyncio.timeout(pause_s):
                    await self._ended.wait()
            except TimeoutError:
                continue
