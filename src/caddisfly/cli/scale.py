"""`caddis scale …`: how many Machines a process group has, where, and how large they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caddisfly.cli import show, target
from caddisfly.cli.consent import confirm
from caddisfly.cli.group import group
from caddisfly.cli.machine_config import megabytes, pairs
from caddisfly.cli.machine_flags import Env, VmCpuKind, VmCpus, VmMemory, VmSize
from caddisfly.cli.target import App, AsJson
from caddisfly.model.errors import InvalidArgument, Unimplemented

if TYPE_CHECKING:
    from caddisfly.client import AsyncClient
    from caddisfly.client.calls import Json
    from caddisfly.launch.config import AppConfig
    from caddisfly.launch.config.running import Machine
    from caddisfly.launch.fleet.deployed import Deployed
    from caddisfly.launch.scale.plan import GroupPlan

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Group = Annotated[str, typer.Option("--process-group", "-g", "--group", help="Process group.")]


def build() -> typer.Typer:
    scale = group("How many Machines an app has, where, and how large they are.")
    scale.command("show")(show_)
    scale.command()(count)
    scale.command()(vm)
    scale.command()(memory)
    return scale


def show_(app: App = "", json: AsJson = False) -> None:
    """Show how many Machines each process group has, and how large they are."""
    from caddisfly.launch.fleet import deployed

    name = target.app_name(app)
    with target.client() as client:
        found, remembered = deployed.deployed(client, name), deployed.remembered(client, name)
    rows = [_row(found, one, remembered.get(one)) for one in sorted({*found.groups, *remembered})]
    if json:
        show.result(rows)
        return
    show.line(f"VM Resources for app: {name}\n")
    show.table(
        ("NAME", "COUNT", "KIND", "CPUS", "MEMORY", "REGIONS"),
        [
            (
                row["Process"],
                row["Count"],
                row["CPUKind"],
                row["CPUs"] or "",
                f"{row['Memory']} MB" if row["Memory"] else "",
                ",".join(f"{region}({n})" if n > 1 else region for region, n in sorted(row["Regions"].items())),
            )
            for row in rows
        ],
    )
    for row in rows:
        if row["Standbys"]:
            show.note(f"{row['Process']}: and {row['Standbys']} on standby")
        if row["Wanted"] not in (None, row["Count"]):
            show.note(f"{row['Process']}: {row['Wanted']} were asked for")


def _row(found: Deployed, name: str, rules: Mapping[str, Any] | None) -> Json:
    from caddisfly.launch.fleet.deployed import is_standby

    members = found.of_group(name)
    capacity = [machine for machine in members if not is_standby(machine)]
    guest: Mapping[str, Any] = next((one["config"].get("guest") or {} for one in members if one.get("config")), {})
    return {
        "Process": name,
        "Count": len(capacity),
        "CPUKind": guest.get("cpu_kind", ""),
        "CPUs": guest.get("cpus", 0),
        "Memory": guest.get("memory_mb", 0),
        "Regions": dict(Counter(str(machine.get("region", "")) for machine in capacity)),
        "Standbys": len(members) - len(capacity),
        "Wanted": rules["count"] if rules else None,
    }


def count(
    counts: Annotated[list[str], typer.Argument(metavar="COUNT...", help="As 3, web=2 worker=1, +1 or, after --, -1.")],
    app: App = "",
    process_group: Group = "",
    region: Annotated[str, typer.Option("--region", "-r", help="Only in these regions, as ams,fra.")] = "",
    max_per_region: Annotated[
        int | None, typer.Option("--max-per-region", help="At most so many in one region; -1: any number.")
    ] = None,
    env: Env = None,
    vm_size: VmSize = "",
    vm_memory: VmMemory = "",
    vm_cpus: VmCpus = 0,
    vm_cpu_kind: VmCpuKind = "",
    with_new_volumes: Annotated[bool, typer.Option("--with-new-volumes", hidden=True)] = False,
    from_snapshot: Annotated[str, typer.Option("--from-snapshot", hidden=True)] = "",
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Make or destroy Machines until a process group has so many. It is remembered, also when it is 0."""
    from caddisfly.launch.fleet import deployed
    from caddisfly.launch.scale import carrying_out, plan, wanted
    from caddisfly.launch.scale.size import Size

    if with_new_volumes or from_snapshot:
        raise Unimplemented("there are no volumes yet", next="leave --with-new-volumes and --from-snapshot out")
    flags = plan.Flags(
        regions=tuple(dict.fromkeys(word.strip() for word in region.split(",") if word.strip())),
        max_per_region=max_per_region,
        size=Size(size=vm_size, memory_mb=megabytes(vm_memory) if vm_memory else 0, cpus=vm_cpus, cpu_kind=vm_cpu_kind),
        env=pairs(env or (), "--env"),
    )
    name = target.app_name(app)
    with target.client() as client:
        found = deployed.deployed(client, name)
        remembered = {one: plan.Rules.from_wire(wire) for one, wire in deployed.remembered(client, name).items()}
    if found.note:
        show.note(f"Note: {found.note}")
    asked = wanted.parse(counts, groups=found.groups, default=process_group)
    plans = plan.plan(found, asked, flags, remembered=remembered)
    changes = any(one.changes for one in plans)
    if changes:
        show.note(f"App '{name}' is going to be scaled according to this plan:")
        for line in _lines(plans):
            show.note(f"  {line}")
        confirm(f"Scale app {name}?", yes=yes)

    added = target.at_once(lambda client: carrying_out.carry_out(client, found, plans, say=show.note))
    for one in plans:
        _mention_file(found, one)
    if json:
        show.result(_result(name, plans, added))
    elif changes:
        show.line(f"Scaled app {name}: {', '.join(f'{one.group}={one.after.count}' for one in plans)}")
    else:
        show.line("App already scaled to desired state. No need for changes")


def _lines(plans: Sequence[GroupPlan]) -> list[str]:
    from caddisfly.launch.fleet.deployed import is_standby
    from caddisfly.launch.scale.size import named

    lines: Counter[tuple[str, str, str]] = Counter()
    for one in plans:
        for addition in one.additions:
            where = f"on region '{addition.region}'" if addition.region else "where there is room"
            lines["+", f"machines for group '{one.group}' {where}", f"of size '{named(addition.config['guest'])}'"] += 1
        for removal in one.removals:
            guest = (removal.machine.get("config") or {}).get("guest") or {}
            kind = "standby machines" if is_standby(removal.machine) else "machines"
            lines["-", f"{kind} for group '{one.group}' on region '{removal.region}'", f"of size '{named(guest)}'"] += 1
    return [f"{sign}{number} {what} {size}" for (sign, what, size), number in lines.items()]


def _result(name: str, plans: Sequence[GroupPlan], added: Sequence[Json]) -> Json:
    return {
        "app": name,
        "groups": {one.group: one.after.to_wire() for one in plans},
        "created": [machine["id"] for machine in added],
        "destroyed": [removal.machine["id"] for one in plans for removal in one.removals],
    }


def _mention_file(found: Deployed, one: GroupPlan) -> None:
    """What a fly.toml declares is held by every deploy."""
    config = _next(found)
    declared = config.placement(one.group).count if config and one.group in config.groups.names else None
    if declared not in (None, one.after.count):
        show.note(
            f"Warning: the [caddisfly] table of fly.toml says count = {declared} for {one.group}: "
            "the next deploy goes back to it"
        )


def _next(found: Deployed) -> AppConfig | None:
    """What the next deploy will go by, as far as one can tell: the fly.toml here, if it is of this app."""
    from caddisfly.launch import config
    from caddisfly.model.errors import Problem

    try:
        here = config.find_and_load(strict=False)
    except Problem:
        return found.config  # there is none here, or one that cannot be deployed
    return here if here.app == found.app else found.config


def vm(
    size: Annotated[str, typer.Argument(help="Preset, such as shared-cpu-2x or performance-1x.")],
    app: App = "",
    process_group: Group = "",
    vm_memory: Annotated[str, typer.Option("--vm-memory", "--memory", help="Instead of the preset's.")] = "",
    json: AsJson = False,
) -> None:
    """Give Machines another size, one after the other."""
    _resize(app, process_group, size=size, memory=vm_memory, json=json)


def memory(
    size: Annotated[str, typer.Argument(metavar="MEMORY", help="In MiB, or such as 1gb.")],
    app: App = "",
    process_group: Group = "",
    json: AsJson = False,
) -> None:
    """Give Machines another amount of memory, one after the other."""
    _resize(app, process_group, memory=size, json=json)


def _resize(app: str, process_group: str, *, size: str = "", memory: str, json: bool) -> None:
    from caddisfly.launch.fleet import changing, deployed
    from caddisfly.launch.scale.size import Size

    flags = Size(size=size, memory_mb=megabytes(memory) if memory else 0)

    def resized(config: Json) -> Json:
        return {**config, "guest": flags.onto(config.get("guest") or {})}

    name = target.app_name(app)
    with target.client() as client:
        found = deployed.deployed(client, name)
    chosen = _one_group(found, process_group)
    machines = sorted(found.of_group(chosen), key=lambda machine: str(machine["id"]))
    for machine in machines:
        resized(changing.known(dict(machine))["config"])  # wrong for one is refused before any is touched

    async def act(client: AsyncClient) -> list[Json]:
        after = []
        for machine in machines:
            show.note(f"Updating {machine['id']}")
            after.append(await changing.change(client, name, str(machine["id"]), resized, why="caddis scale"))
        return after

    after = target.at_once(act)
    _mention_sizes(found, chosen, after)
    if json:
        show.result([{"id": machine["id"], "guest": machine["config"]["guest"]} for machine in after])
        return
    for machine in after:
        guest = machine["config"]["guest"]
        cpus = f"{guest['cpus']} {guest['cpu_kind']} CPU{'s' * (guest['cpus'] != 1)}"
        show.line(f"{machine['id']} has {cpus} and {guest['memory_mb']} MB")


def _one_group(found: Deployed, said: str) -> str:
    groups = tuple(sorted({found.group_of(machine) for machine in found.machines}))
    if said and said not in groups:
        raise InvalidArgument(f"no Machines of process group '{said}'", next=f"there are some of {', '.join(groups)}")
    if not said and len(groups) > 1:
        raise InvalidArgument("which process group?", why=f"this app has {', '.join(groups)}", next="add -g GROUP")
    if not groups:
        raise InvalidArgument(f"app {found.app} has no Machines that a deploy made", next="caddis deploy")
    return said or groups[0]


def _mention_sizes(found: Deployed, chosen: str, after: Sequence[Machine]) -> None:
    from caddisfly.launch.scale import size

    config = _next(found)
    said = size.said(config, chosen) if config and chosen in config.groups.names else None
    if said and any(size.named(said) != size.named(machine["config"]["guest"]) for machine in after):
        show.note(f"Warning: [[vm]] of fly.toml says {size.named(said)}: the next deploy goes back to it")
