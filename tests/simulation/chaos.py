"""What happens in a run: one random operation at a time, from callers, sandboxes, or bad luck.

Each run has a weather of its own. Some kinds of bad luck never come in it and others twice as often, because one hides
what another does: an agent that dies every moment is followed by one that puts all in order. And some lie in wait: they
come just in the moments of one kind, a few milliseconds that chance alone hardly ever hits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

from caddisfly.bus import contract
from caddisfly.model import ids, states
from caddisfly.model.errors import Problem

if TYPE_CHECKING:
    from tests.simulation.world import World

Ambush = Callable[["World"], None]

_MACHINES = 6
_APP = contract.AppRecord(id="app1", name="demo", org_id="org1", org_slug="personal", network_id=7)


def pause(world: World) -> float:
    """Seconds until the next operation: mostly at once, now and then long enough for everything to come to rest."""
    luck = world.chance.random()
    if luck < 0.7:
        return world.chance.random() * 0.02
    return world.chance.random() * (0.5 if luck < 0.95 else 20.0)


def step(world: World) -> None:
    world.chance.choices(_STEPS, world.weather.weights)[0](world)


def _config(world: World) -> dict[str, Any]:
    chance = world.chance
    config: dict[str, Any] = {
        "image": "nginx",
        "env": {"N": str(world.calls)},
        "restart": {"policy": chance.choice(("no", "always", "on-failure")), "max_retries": chance.choice((1, 3))},
        "stop_config": {"timeout": chance.choice(("1s", "5s"))},
    }
    if world.happens(0.1):
        config["auto_destroy"] = True
    if world.happens(world.weather.several):
        config["containers"] = _containers(world)
    elif world.happens(world.weather.several / 2):
        config["processes"] = [{"cmd": [str(number)]} for number in range(chance.choice((1, 2, 3)))]
    if world.happens(0.4):
        config["rootfs"] = {"persist": chance.choice(("restart", "always"))}
    return config


def _containers(world: World) -> list[dict[str, Any]]:
    chance, made = world.chance, []
    for name in ("a", "b", "c")[: chance.choice((1, 2, 3))]:
        policy = chance.choice(("no", "always", "on-failure"))
        one: dict[str, Any] = {"name": name, "image": "nginx", "restart": {"policy": policy, "max_retries": 2}}
        if made and world.happens(0.6):
            other = chance.choice(made)
            conditions = ["started"] if other["restart"]["policy"] == "always" else ["started", "exited_successfully"]
            one["depends_on"] = [{"name": other["name"], "condition": chance.choice(conditions)}]
        if world.happens(0.3):
            one["stop"] = {"signal": "SIGTERM", "timeout": "1s"}
        made.append(one)
    return made


def _there(world: World) -> list[str]:
    return [machine.id for machine in world.disk.machines.values() if machine.id not in world.disk.destroyed]


def _one(world: World, *fitting: str) -> str:
    """Mostly one that is there, and rather in such a state; now and then one that is gone, or is being created."""
    there = _there(world)
    if fitting and world.happens(0.7):
        there = [id for id in there if world.disk.machines[id].state in fitting] or there
    if there and not world.happens(0.1):
        return world.chance.choice(there)
    return world.chance.choice(world.created) if world.created else "0" * 14


def create(world: World) -> None:
    if len(_there(world)) >= _MACHINES:
        return
    id = ids.machine_id()
    world.created.append(id)
    name = "one" if world.happens(0.1) else f"m-{id}"
    request = contract.CreateMachine(
        machine_id=id, app=_APP, name=name, config=_config(world), region="lab", skip_launch=world.happens(0.3)
    )
    world.call(contract.CREATE_MACHINE, request)


def start(world: World) -> None:
    world.call(contract.START_MACHINE, contract.MachineCall(machine_id=_one(world, states.STOPPED, states.SUSPENDED)))


def wake(world: World) -> None:
    world.call(contract.WAKE_MACHINE, contract.MachineCall(machine_id=_one(world, states.SUSPENDED), source="proxy"))


def stop(world: World) -> None:
    timeout_s = world.chance.choice((0.0, 0.1, 3.0))
    world.call(contract.STOP_MACHINE, contract.StopMachine(machine_id=_one(world), timeout_s=timeout_s))


def suspend(world: World) -> None:
    source = "proxy" if world.happens(0.5) else "user"
    request = contract.MachineCall(machine_id=_one(world, states.STARTED), source=source)
    world.call(contract.SUSPEND_MACHINE, request)


def restart(world: World) -> None:
    request = contract.StopMachine(machine_id=_one(world), force=world.happens(0.3))
    world.call(contract.RESTART_MACHINE, request)


def update(world: World) -> None:
    request = contract.UpdateMachine(machine_id=_one(world), config=_config(world), skip_launch=world.happens(0.3))
    world.call(contract.UPDATE_MACHINE, request)


def signal(world: World) -> None:
    name = world.chance.choice(("SIGHUP", "SIGTERM", "SIGKILL"))
    world.call(contract.SIGNAL_MACHINE, contract.SignalMachine(machine_id=_one(world), signal=name))


def execute(world: World) -> None:
    world.call(contract.EXEC_MACHINE, contract.ExecMachine(machine_id=_one(world), command=("true",)))


def destroy(world: World) -> None:
    request = contract.DestroyMachine(machine_id=_one(world), force=world.happens(0.5))
    world.call(contract.DESTROY_MACHINE, request)


def end_by_itself(world: World) -> None:
    running = world.rooms.running()
    if running:
        world.rooms.end(world.chance.choice(running).id, world.chance.choice((0, 1, 137)))


def get_stuck(world: World) -> None:
    """A process in uninterruptible sleep, such as on a disk that hangs: nothing kills it for a while."""
    running = world.rooms.running()
    if running:
        box = world.chance.choice(running)
        box.stuck_until = world.loop.time() + world.chance.choice((1.0, 10.0, 60.0))
        world.note("stuck", box.id, box.stuck_until)


def rot(world: World) -> None:
    """The disk alters what it holds of a Machine that is suspended."""
    asleep = [one.run_id for one in world.disk.machines.values() if one.state == states.SUSPENDED]
    if asleep:
        key = world.chance.choice(asleep)
        world.note("rot", key)
        world.rooms.snapshots[key] = replace(world.rooms.snapshots[key], damaged=True)


def fill_disk(world: World) -> None:
    def free() -> None:
        world.disk.full = False

    world.disk.full = True
    world.note("disk-full")
    world.loop.later(world.chance.choice((0.01, 0.5, 10.0)), free)


def crash(world: World) -> None:
    """The agent dies some callbacks from now: at any point of anything, its own start included."""
    if world.process is not None and not world.process.dead:
        world.process.fuse = 1 + int(world.chance.random() ** 2 * 200)


def die(world: World) -> None:
    """The agent dies before it does anything else."""
    if world.process is not None and not world.process.dead:
        world.process.fuse = 1


def retire(world: World) -> None:
    """The agent is told to stop, and another one follows."""
    agent, process = world.agent, world.process
    if agent is None or process is None or process.dead:
        return

    async def leave() -> None:
        await agent.stop()
        process.kill()

    world.note("retire")
    world.agent = None
    world.loop.spawn(process, leave(), name="retire")


def park(world: World) -> None:
    """The platform goes down in an orderly way and comes back: what ran starts again."""
    agent, process = world.agent, world.process
    if agent is None or process is None or process.dead:
        return

    async def leave() -> None:
        try:
            await agent._park(contract.Nothing())
        except Problem as problem:
            world.note("park refused", "", repr(problem))
            return
        world.agent = None
        await agent.stop()
        process.kill()

    world.note("park")
    world.loop.spawn(process, leave(), name="park")


def lose_bus(world: World) -> None:
    wipe = world.happens(0.3)
    world.note("bus-lost", "", "with all it had" if wipe else "")
    world.server.stop(wipe=wipe)
    world.loop.later(world.chance.choice((0.1, 0.1, 2.0, 20.0)), world.server.start)


def reboot(world: World) -> None:
    """The host loses power: agent, sandboxes and links are gone, the disk and what is on it stays."""
    if world.process is None or world.process.dead:
        return
    world.note("reboot")
    world.process.kill()
    rooms = world.rooms
    rooms.boxes.clear()
    rooms.links.clear()
    rooms.roots.clear()
    rooms.boot += 1
    for key, saved in list(rooms.snapshots.items()):
        if not saved.durable:
            rooms.snapshots[key] = replace(saved, damaged=True)
    world.notes.clear()


_OPERATIONS = {
    create: 12,
    start: 12,
    wake: 8,
    stop: 12,
    suspend: 16,
    restart: 8,
    update: 10,
    signal: 3,
    execute: 1,
    destroy: 6,
    end_by_itself: 10,
    get_stuck: 1,
    rot: 1.5,
    fill_disk: 1.5,
    crash: 4,
    retire: 0.7,
    park: 0.3,
    lose_bus: 1,
    reboot: 0.5,
}
_STEPS = tuple(_OPERATIONS)
_BAD_LUCK = (get_stuck, rot, fill_disk, crash, retire, park, lose_bus, reboot)


def _lose_power(world: World) -> None:
    world.loop.later(world.brief(), reboot, world)


def _rot_soon(world: World) -> None:
    world.loop.later(world.chance.random() * 2, rot, world)


_AMBUSHES: tuple[tuple[str, Ambush, float], ...] = (
    ("begun", fill_disk, 0.4),
    ("begun", die, 0.1),
    ("stopping", fill_disk, 0.5),
    ("stopping", die, 0.1),
    ("exit", fill_disk, 0.1),
    ("exit", die, 0.05),
    ("suspend", _lose_power, 0.2),
    ("seal", _lose_power, 0.5),
    ("seal", _rot_soon, 0.4),
    ("resume", _lose_power, 0.2),
    ("loaded", _lose_power, 0.5),
)
"""In which moment what may come, and how likely it does in a run in which it lies in wait."""


@dataclass(frozen=True, slots=True)
class Weather:
    """Which bad luck there is in a run."""

    weights: tuple[float, ...]
    several: float
    """How likely a Machine has several programs, and so cannot be suspended."""
    ambushes: Mapping[str, tuple[tuple[Ambush, float], ...]]

    @classmethod
    def drawn(cls, chance: Random) -> Weather:
        often = [
            weight * chance.choice((0, 1, 2) if what in _BAD_LUCK else (0.5, 1, 2))
            for what, weight in _OPERATIONS.items()
        ]
        waiting: dict[str, tuple[tuple[Ambush, float], ...]] = {}
        for moment, strike, probability in _AMBUSHES:
            if chance.random() < 0.4:
                waiting[moment] = (*waiting.get(moment, ()), (strike, probability))
        return cls(tuple(often), chance.choice((0.0, 0.3, 0.7)), waiting)
