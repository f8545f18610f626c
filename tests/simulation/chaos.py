"""What happens in a run: one random operation at a time, from callers, sandboxes, or bad luck."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from caddisfly.bus import contract
from caddisfly.model import ids, states
from caddisfly.model.errors import Problem

if TYPE_CHECKING:
    from tests.simulation.world import World

_MACHINES = 6
_APP = contract.AppRecord(id="app1", name="demo", org_id="org1", org_slug="personal", network_id=7)


def pause(world: World) -> float:
    """Seconds until the next operation: mostly at once, now and then long enough for everything to come to rest."""
    luck = world.chance.random()
    if luck < 0.7:
        return world.chance.random() * 0.02
    return world.chance.random() * (0.5 if luck < 0.95 else 20.0)


def step(world: World) -> None:
    world.chance.choices(_STEPS, _WEIGHTS)[0](world)


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
    if world.happens(0.3):
        config["containers"] = _containers(world)
    elif world.happens(0.15):
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


def _one(world: World) -> str:
    """Mostly a Machine that is there; now and then one that is gone, or whose create is still under way."""
    there = _there(world)
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
    world.call(contract.START_MACHINE, contract.MachineCall(machine_id=_one(world)))


def wake(world: World) -> None:
    world.call(contract.WAKE_MACHINE, contract.MachineCall(machine_id=_one(world), source="proxy"))


def stop(world: World) -> None:
    timeout_s = world.chance.choice((0.0, 0.1, 3.0))
    world.call(contract.STOP_MACHINE, contract.StopMachine(machine_id=_one(world), timeout_s=timeout_s))


def suspend(world: World) -> None:
    source = "proxy" if world.happens(0.5) else "user"
    world.call(contract.SUSPEND_MACHINE, contract.MachineCall(machine_id=_one(world), source=source))


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
    reboot: 0.3,
}
_STEPS, _WEIGHTS = tuple(_OPERATIONS), tuple(_OPERATIONS.values())
