"""What an image's name means now, as a host would find it that starts a Machine of it."""

from __future__ import annotations

from caddisfly.bus import contract
from caddisfly.control.hosts import Hosts
from caddisfly.control.machines import Machines
from caddisfly.control.repositories import Repositories
from caddisfly.model.app import App
from caddisfly.model.config import Config
from caddisfly.model.errors import Unavailable


class Images:
    def __init__(self, machines: Machines, hosts: Hosts, repositories: Repositories) -> None:
        self._machines, self._hosts, self._repositories = machines, hosts, repositories

    async def resolve(self, app: App, name: str) -> contract.ImageFound:
        """Asked of the hosts of the app's Machines first: they have its images.

        Raises what a create would raise: of an image that is not there, or is of another organization.
        """
        await self._repositories.check_images(Config.parse({"image": name}), org_id=app.organization.id)
        has = {machine.host_id for machine in self._machines.of(app).values()}
        away = Unavailable("no host is up", why="no heartbeat was heard lately", next="caddis status")
        for host in sorted(self._hosts.up, key=lambda host: (host.id not in has, host.id)):
            call = contract.ResolveImage(name=name, org_id=app.organization.id)
            try:
                return await self._machines.ask(host.id, contract.RESOLVE_IMAGE, call)
            except Unavailable as problem:
                away = problem
        raise away
