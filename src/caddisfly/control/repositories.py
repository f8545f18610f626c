"""What the platform's registry asks: who may use which repository, and what of one is still needed.

The registry keeps content and no accounts. A repository is an app, so whoever reaches the app reaches its images, with
every token that the API takes.
"""

from __future__ import annotations

from caddisfly.bus import contract
from caddisfly.bus.connection import Bus
from caddisfly.bus.rpc import Dispatcher
from caddisfly.control.auth.access import Access, Verifier
from caddisfly.control.auth.passes import Pass, Passes
from caddisfly.control.machines import Machines
from caddisfly.control.records.apps import Apps
from caddisfly.model import registry
from caddisfly.model.app import App
from caddisfly.model.config import Config
from caddisfly.model.errors import NotFound


class Repositories:
    """Serves on the bus from `start` on."""

    def __init__(
        self, bus: Bus, verifier: Verifier, apps: Apps, machines: Machines, *, passes: Passes, domain: str
    ) -> None:
        """`domain` empty: there is no registry of the platform's own, only its calls are answered."""
        self._bus, self._verifier, self._apps, self._machines, self._domain = bus, verifier, apps, machines, domain
        self._passes = passes
        self._dispatcher = Dispatcher()
        self._dispatcher.handle(contract.ASK_ACCESS, self.access)
        self._dispatcher.handle(contract.ASK_NEEDS, self.needs)
        self._subscribed = False

    def start(self) -> None:
        self._bus.on_connect(self._serve)

    async def stop(self) -> None:
        await self._dispatcher.close()

    async def access(self, request: contract.AskAccess) -> contract.GrantedAccess:
        """Raises `Unauthenticated` without a usable token or pass."""
        if (pass_ := self._passes.read(request.authorization)) is not None:
            return await self._by_pass(pass_, request.names)
        access = await self._verifier.verify(request.authorization)
        apps = [app for name in dict.fromkeys(request.names) if (app := await self._reach(access, name)) is not None]
        if request.everything:
            for organization in access.organizations.values():
                apps += [app for app in await self._apps.of_organization(organization.id) if _reaches(access, app)]
        return contract.GrantedAccess(
            repositories=tuple(
                contract.RepositoryAccess(name=app.name, app_id=app.id, org_id=app.organization.id) for app in apps
            )
        )

    async def _by_pass(self, pass_: Pass, names: tuple[str, ...]) -> contract.GrantedAccess:
        """A build pushes to its own app, and may begin with images of its organization."""
        granted = []
        for name in dict.fromkeys(names):
            try:
                record = await self._apps.find(name)
            except NotFound:
                continue
            app = record.app
            if app.organization.id == pass_.org_id and not record.deleting:
                granted.append(
                    contract.RepositoryAccess(
                        name=app.name, app_id=app.id, org_id=pass_.org_id, push=app.id == pass_.app_id
                    )
                )
        return contract.GrantedAccess(repositories=tuple(granted))

    async def needs(self, request: contract.AskNeeds) -> contract.RepositoryNeeds:
        try:
            app = (await self._apps.find(request.name)).app
        except NotFound:
            return contract.RepositoryNeeds(alive=False)
        if (app.id, app.organization.id) != (request.app_id, request.org_id):
            return contract.RepositoryNeeds(alive=False)
        machines = self._machines.of_organization(app.organization.id)
        return contract.RepositoryNeeds(
            alive=True, digests=tuple({digest for machine in machines for digest in machine.digests})
        )

    async def check_images(self, config: Config, *, org_id: str, unless: Config | None = None) -> None:
        """Raises what a host says of an image that is not there, for one of an app of another organization, too.

        What a Machine runs already, by its config `unless`, was checked before.
        """
        known = unless.images if unless is not None else frozenset()
        for image in sorted(config.images - known):
            await self._check_image(image, org_id=org_id)

    async def _check_image(self, image: str, *, org_id: str) -> None:
        name = registry.app_of(image, domain=self._domain) if self._domain else None
        if name is None:
            return
        try:
            record = await self._apps.find(name)
        except NotFound:
            record = None
        if record is None or record.app.organization.id != org_id:
            host = image.partition("/")[0]
            raise registry.not_there(image, registry=host, repository=name)

    async def _reach(self, access: Access, name: str) -> App | None:
        try:
            record = await self._apps.find(name)
        except NotFound:
            return None
        return record.app if _reaches(access, record.app) and not record.deleting else None

    async def _serve(self) -> None:
        if not self._subscribed:
            self._subscribed = True
            await self._dispatcher.serve_bus(self._bus, contract.CONTROL)


def _reaches(access: Access, app: App) -> bool:
    return access.reaches(org_id=app.organization.id, app_id=app.id)
