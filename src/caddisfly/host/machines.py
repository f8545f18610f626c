"""What may be asked of this host about its Machines: the handlers of the contract, thin over engine and rooms."""

from __future__ import annotations

import logging
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from caddisfly.bus import contract
from caddisfly.bus.rpc import Dispatcher
from caddisfly.host.capacity import Capacity
from caddisfly.host.drivers.driver import Command, Suspendable
from caddisfly.host.grants import Grants
from caddisfly.host.images.image import ResolvedImage
from caddisfly.host.journal.journal import Journal
from caddisfly.host.leases import Leases
from caddisfly.host.logs import LogReader
from caddisfly.host.network import addresses
from caddisfly.host.operations import lifecycle
from caddisfly.host.operations.engine import Decide, Engine
from caddisfly.host.operations.lifecycle import Decision
from caddisfly.host.operations.work import Images, Parts
from caddisfly.host.secrets import Vault
from caddisfly.host.settings import HostSettings
from caddisfly.model import ids, states
from caddisfly.model.config import Config
from caddisfly.model.errors import Aborted, FailedPrecondition, InvalidArgument, Unavailable
from caddisfly.model.machine import ImageRef, Machine, wall_ms

log = logging.getLogger(__name__)

_UP = (states.STARTED, states.RESTARTING)


class Machines:
    """The face of this host's Machines."""

    def __init__(
        self,
        *,
        settings: HostSettings,
        journal: Journal,
        engine: Engine,
        parts: Parts,
        capacity: Capacity,
        leases: Leases,
        vault: Vault,
        sessions: Callable[[str], int],
    ) -> None:
        """`sessions` counts who is attached to a Machine."""
        self._vault = vault
        self._sessions = sessions
        self._commands: Counter[str] = Counter()
        self._grants = Grants(in_use=self._use_of)
        self._settings, self._journal, self._engine = settings, journal, engine
        self._parts, self._capacity, self._leases = parts, capacity, leases
        self._logs = LogReader(settings)

    def register(self, dispatcher: Dispatcher) -> None:
        dispatcher.handle(contract.CREATE_MACHINE, self.create)
        dispatcher.handle(contract.UPDATE_MACHINE, self.update)
        dispatcher.handle(contract.START_MACHINE, self.start)
        dispatcher.handle(contract.STOP_MACHINE, self.stop)
        dispatcher.handle(contract.SUSPEND_MACHINE, self.suspend)
        dispatcher.handle(contract.RESTART_MACHINE, self.restart)
        dispatcher.handle(contract.SIGNAL_MACHINE, self.signal)
        dispatcher.handle(contract.DESTROY_MACHINE, self.destroy)
        dispatcher.handle(contract.EXEC_MACHINE, self.execute)
        dispatcher.handle(contract.RESOLVE_IMAGE, self.resolve)
        dispatcher.handle(contract.WAKE_MACHINE, self.wake)
        dispatcher.handle(contract.GRANT_REST, self.grant_rest)
        dispatcher.handle(contract.READ_LOGS, self.read_logs)

    def bid(self, request: contract.BidRequest) -> contract.Bid:
        """An offer for a Machine that someone wants to create."""
        room = self._capacity.room(self._engine.machines.values())
        siblings = sum(1 for machine in self._engine.machines.values() if machine.app_id == request.app_id)
        if self._settings.region in request.regions:
            refusal = room.refusal(
                memory_mb=request.memory_mb,
                cores=request.cores,
                gpu_kind=request.gpu_kind,
                disk_floor_mb=self._settings.disk_floor_mb,
            )
            refusal = self._parts.choice.refusal(request.isolation) or refusal
        else:
            refusal = f"not in {', '.join(request.regions)}"
        free = room.memory_mb / max(1, self._capacity.memory_mb)
        return contract.Bid(
            host_id=self._settings.host_id,
            region=self._settings.region,
            score=free - 0.1 * siblings,
            refusal=refusal,
            isolation=self._parts.choice.best(request.isolation) or "",
        )

    async def create(self, request: contract.CreateMachine) -> contract.MachineReply:
        known = self._engine.machines.get(request.machine_id)
        if known is not None:
            return contract.MachineReply(record=known.to_record())
        config = Config.parse(request.config)
        _refuse_what_is_not_there(config)
        warnings = self._parts.accept(config)
        isolation = await self._parts.choice.choose(request.isolation, several=bool(config.programs))
        image, container_images, file_images = await self._resolve(config, request.app.org_id)
        now = wall_ms()
        machine = Machine(
            id=request.machine_id,
            name=request.name,
            app_name=request.app.name,
            app_id=request.app.id,
            org_id=request.app.org_id,
            org_slug=request.app.org_slug,
            network_id=request.app.network_id,
            host_id=self._settings.host_id,
            region=self._settings.region,
            state=states.CREATED,
            instance_id=ids.ulid(),
            config=config,
            image=image,
            container_images=container_images,
            file_images=file_images,
            private_ip=addresses.sixpn(
                network_id=request.app.network_id,
                host_id=self._settings.host_id,
                machine_part=await self._journal.next_number("address6"),
            ),
            ipv4=await self._ipv4(),
            created_ms=now,
            updated_ms=now,
            cordoned=request.skip_service_registration,
            isolation=isolation,
        )
        if request.lease_ttl_s:
            machine = self._leases.take(
                machine, nonce="", owner=request.owner, ttl_s=request.lease_ttl_s, description=""
            )
        self._capacity.check(machine, self._engine.machines.values())
        launch = not request.skip_launch and not config.standbys  # a standby is started when it is needed
        async with self._vault.keeping(machine.app_id, request.secrets) as secrets_version:
            machine = replace(machine, secrets_version=secrets_version)
            made, revision = await self._engine.create(machine, launch=launch, warnings=warnings)
        return contract.MachineReply(record=made.to_record(), revision=revision)

    async def update(self, request: contract.UpdateMachine) -> contract.MachineReply:
        machine = self._engine.get(request.machine_id)
        self._leases.check(machine, request.nonce)
        config = Config.parse(request.config)
        _refuse_what_is_not_there(config)
        warnings = self._parts.accept(config)
        image, container_images, file_images = await self._resolve(config, machine.org_id)
        if machine.state in _UP and not request.skip_launch:
            # Said while the version before still runs: afterwards there would be nothing to go back to.
            self._check_room(replace(machine, config=config))

        def decide(machine: Machine, *, secrets_version: int) -> Decision:
            decision = lifecycle.update(
                machine,
                config=config,
                image=image,
                secrets_version=secrets_version,
                current_version=request.current_version,
                launch=not request.skip_launch,
                cordoned=request.skip_service_registration,
                container_images=container_images,
                file_images=file_images,
                warnings=warnings,
            )
            if not request.lease_ttl_s:
                return decision
            leased = self._leases.take(
                decision.machine, nonce=request.nonce, owner=request.owner, ttl_s=request.lease_ttl_s, description=""
            )
            return replace(decision, machine=leased)

        async with self._vault.keeping(machine.app_id, request.secrets) as secrets_version:
            guarded = self._leases.guard(request.nonce, partial(decide, secrets_version=secrets_version))
            _, after, revision = await self._engine.ask(request.machine_id, guarded)
        return contract.MachineReply(record=after.to_record(), revision=revision)

    async def start(self, request: contract.MachineCall) -> contract.StartReply:
        await self._keep_awake(request.machine_id)
        before, after, revision = await self._start(request)
        return contract.StartReply(record=after.to_record(), revision=revision, previous_state=before.state)

    async def _start(self, request: contract.MachineCall) -> tuple[Machine, Machine, int]:
        machine = self._engine.get(request.machine_id)
        if machine.state in states.STARTABLE:
            self._check_room(machine)

        def decide(machine: Machine) -> Decision:
            return lifecycle.start(machine, source=request.source)

        # A request that wakes a Machine has no lease and needs none (reference 4.6), nor has the loss of a host.
        guarded = decide if request.source in ("proxy", "flyd") else self._leases.guard(request.nonce, decide)
        return await self._engine.ask(request.machine_id, guarded)

    def _check_room(self, machine: Machine) -> None:
        """Raises `Aborted` or `FailedPrecondition` when it cannot be started here now."""
        self._parts.choice.incarnate(machine)
        self._capacity.check(machine, self._engine.machines.values())

    async def wake(self, request: contract.MachineCall) -> contract.MachineReply:
        """Start it if need be, and answer once it is started. However many ask, it starts once."""
        await self._keep_awake(request.machine_id)
        while True:
            machine = self._engine.get(request.machine_id)
            if machine.state in states.STARTABLE or machine.state == states.SUSPENDING:
                _, machine, _ = await self._start(request)
            before = machine.state
            machine = await self._engine.settled(request.machine_id)
            if machine.state == states.STARTED:
                return contract.MachineReply(record=machine.to_record())
            if machine.state == states.FAILED:
                exit = machine.newest("exit")
                error = (exit.request or {}).get("exit_event", {}).get("error", "") if exit else ""
                raise Unavailable(
                    "the machine could not be started", why=error, next=f"caddis machine status {machine.id}"
                )
            if machine.state not in states.STARTABLE or before in (states.STARTING, states.STARTED):
                raise FailedPrecondition(f"unable to start machine from current state: '{machine.state}'")

    async def grant_rest(self, request: contract.MachineCall) -> contract.GrantReply:
        machine = self._engine.get(request.machine_id)
        self._leases.check(machine, request.nonce)
        return contract.GrantReply(grant=self._grants.give(machine))

    async def _keep_awake(self, machine_id: str) -> None:
        """Whoever needs it now comes before whoever wants to put it to rest."""
        if self._grants.stands(machine_id):
            await self._engine.change(machine_id, self._grants.withdraw)

    def _use_of(self, machine_id: str) -> str:
        if sessions := self._sessions(machine_id):
            return f"{sessions} session{'s are' if sessions > 1 else ' is'} open in it"
        return "a command runs in it" if self._commands[machine_id] else ""

    def _guarded(self, request: contract.MachineCall, decide: Callable[[Machine], Decision]) -> Decide:
        """For who may stop it: by its Lease, and if it is the edge, by its grant."""
        guarded = self._leases.guard(request.nonce, decide)
        return self._grants.guard(request.grant, guarded) if request.source == "proxy" else guarded

    async def stop(self, request: contract.StopMachine) -> contract.MachineReply:
        def decide(machine: Machine) -> Decision:
            return lifecycle.stop(
                machine,
                source=request.source,
                signal=request.signal,
                timeout_s=request.timeout_s,
                reason=request.reason,
            )

        _, after, revision = await self._engine.ask(request.machine_id, self._guarded(request, decide))
        return contract.MachineReply(record=after.to_record(), revision=revision)

    async def suspend(self, request: contract.MachineCall) -> contract.MachineReply:
        """Keep its memory on disk (reference M10). What cannot be suspended is refused before anything is done."""

        def decide(machine: Machine) -> Decision:
            decision = lifecycle.suspend(machine, source=request.source, boot=self._parts.boot, reason=request.reason)
            if decision.operation is not None:
                assert isinstance(self._parts.driver, Suspendable)
                self._parts.driver.snapshot_build(machine.run_id)
                self._capacity.check_snapshot(machine, self._engine.machines.values())
            return decision

        _, after, revision = await self._engine.ask(request.machine_id, self._guarded(request, decide))
        return contract.MachineReply(record=after.to_record(), revision=revision)

    async def restart(self, request: contract.StopMachine) -> contract.MachineReply:
        self._parts.choice.incarnate(self._engine.get(request.machine_id))  # else it would be down, and stay so
        _, after, revision = await self._engine.ask(
            request.machine_id,
            self._leases.guard(
                request.nonce,
                lambda machine: lifecycle.restart(
                    machine,
                    source=request.source,
                    signal=request.signal,
                    timeout_s=request.timeout_s,
                    force=request.force,
                ),
            ),
        )
        return contract.MachineReply(record=after.to_record(), revision=revision)

    async def signal(self, request: contract.SignalMachine) -> contract.Nothing:
        machine = self._engine.running(request.machine_id)
        await self._parts.driver.signal(machine.run_id, signal.Signals[request.signal])
        return contract.Nothing()

    async def destroy(self, request: contract.DestroyMachine) -> contract.MachineReply:
        _, after, revision = await self._engine.ask(
            request.machine_id,
            self._leases.guard(
                request.nonce,
                lambda machine: lifecycle.destroy(machine, source=request.source, force=request.force),
            ),
            hurry=request.force,
        )
        return contract.MachineReply(record=after.to_record(), revision=revision)

    async def execute(self, request: contract.ExecMachine) -> contract.ExecReply:
        machine = self._engine.running(request.machine_id)
        if not request.command:
            raise InvalidArgument("no command given", next='send {"command": ["ls", "/"]}')
        command = Command(
            argv=request.command,
            stdin=request.stdin.encode(),
            timeout_s=request.timeout_s,
            container=request.container,
        )
        self._commands[machine.id] += 1
        try:
            result = await self._parts.driver.execute(machine.run_id, command)
        finally:
            self._commands[machine.id] -= 1
            self._commands += Counter()  # drops those at zero
        return contract.ExecReply(
            exit_code=result.exit_code,
            stdout=result.stdout.decode(errors="replace"),
            stderr=result.stderr.decode(errors="replace"),
        )

    async def read_logs(self, request: contract.ReadLogs) -> contract.LogLines:
        machine = self._engine.get(request.machine_id)
        lines = await self._logs.read(machine, since_ns=request.since_ns, limit=request.limit)
        return contract.LogLines(lines=tuple(lines))

    async def resolve(self, request: contract.ResolveImage) -> contract.ImageFound:
        found = _ref(await self._images.resolve(request.name, organization=request.org_id))
        return contract.ImageFound(image=found.to_wire(), reference=str(found))

    async def _resolve(self, config: Config, org_id: str) -> tuple[ImageRef, dict[str, str], dict[str, str]]:
        """Its image, which is that of the first container when it names none itself; those of all containers, by their
        names; and those whose configs it is given, by theirs."""
        wanted = {program.name: program.image for program in config.programs if program.image}
        runs = dict.fromkeys((*filter(None, (config.image,)), *wanted.values()))
        names = dict.fromkeys((*runs, *sorted(config.file_images)))
        found = {name: _ref(await self._images.resolve(name, organization=org_id)) for name in names}
        first = found[next(iter(runs))]
        containers = {container: str(found[name]) for container, name in wanted.items()}
        return first, containers, {name: str(found[name]) for name in config.file_images}

    @property
    def _images(self) -> Images:
        return self._parts.images

    async def _ipv4(self) -> str:
        taken = {machine.ipv4 for machine in self._engine.machines.values() if machine.alive}
        return addresses.ipv4(self._settings.ipv4_pool, start=await self._journal.next_number("address4"), taken=taken)


def _ref(resolved: ResolvedImage) -> ImageRef:
    reference = resolved.reference
    return ImageRef(
        registry=reference.registry,
        repository=reference.repository,
        tag=reference.tag,
        digest=resolved.digest,
        labels=dict(resolved.config.labels) or None,
    )


def _refuse_what_is_not_there(config: Config) -> None:
    """Parts of the config that would be silently ignored are refused instead."""
    if config.wire.get("mounts"):
        raise InvalidArgument("config.mounts: volumes are not there yet", next="leave config.mounts out")
    if config.wire.get("volumes"):
        raise InvalidArgument("config.volumes: volumes are not there yet", next="leave config.volumes out")
    for number, wire in enumerate(config.wire.get("containers") or ()):
        if wire.get("mounts"):
            raise InvalidArgument(f"config.containers[{number}].mounts: mounts are not there yet")
    if config.guest.gpu_kind:
        raise Aborted(f"could not reserve resource for machine: no {config.guest.gpu_kind} GPU on the current host")
