"""`caddis deploy`: the folder's app, built if need be, on all its Machines, or back as it was."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import caddisfly
from caddisfly.cli import build_flags, deploying, show
from caddisfly.cli.config import Config, Lenient
from caddisfly.cli.machine_flags import VmCpuKind, VmCpus, VmMemory, VmSize
from caddisfly.cli.target import App, AsJson
from caddisfly.model.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from caddisfly.client import AsyncClient
    from caddisfly.launch.config import AppConfig
    from caddisfly.launch.deploy.deployment import Order, Situation

Strategy = Annotated[
    str, typer.Option("--strategy", help="rolling, canary, bluegreen or immediate. Default: the file's, else rolling.")
]
MaxUnavailable = Annotated[
    float | None,
    typer.Option(
        "--max-unavailable",
        help="Machines of a group that may be down at once: a share below 1, else a number. Default: 0.33.",
        show_default=False,
    ),
]
WaitTimeout = Annotated[
    str, typer.Option("--wait-timeout", help="For each Machine to start, and to be well: seconds, 5m, or none.")
]
ReleaseTimeout = Annotated[
    str, typer.Option("--release-command-timeout", help="For the release command: seconds, 5m, or none.")
]
LeaseTimeout = Annotated[str, typer.Option("--lease-timeout", help="After which a deploy that died blocks nobody.")]
Rollback = Annotated[
    bool,
    typer.Option("--rollback/--no-rollback", help="Whether everything is put back when the new version is not well."),
]
MaxConcurrent = Annotated[int, typer.Option("--max-concurrent", min=1, help="With immediate and bluegreen.")]
Detach = Annotated[bool, typer.Option("--detach", help="Do not look at checks, only whether Machines start.")]
SmokeChecks = Annotated[
    bool, typer.Option("--smoke-checks/--no-smoke-checks", help="Watch Machines without checks for some seconds.")
]
Ha = Annotated[
    bool, typer.Option("--ha/--no-ha", help="Make two Machines of a new group, so that one may fail. --ha=false too.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", "--now", help="Do not ask.")]


@build_flags.taken
def deploy(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder. Default: this one.")] = Path("."),
    app: App = "",
    config: Config = "",
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env",
            "-e",
            metavar="NAME | NAME=VALUE",
            help="--env staging puts fly.staging.toml over the file, -e A=1 sets a variable. Can be repeated.",
        ),
    ] = None,
    lenient: Lenient = False,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would happen, and do nothing.")] = False,
    image: Annotated[str, typer.Option("--image", "-i", help="Deploy this image, build nothing.")] = "",
    order: build_flags.Order = build_flags.UNSAID,
    remote_only: Annotated[
        bool, typer.Option("--remote-only", hidden=True, help="Build on the platform, as is the default.")
    ] = False,
    build_only: Annotated[bool, typer.Option("--build-only", help="Build, and stop there.")] = False,
    strategy: Strategy = "",
    max_unavailable: MaxUnavailable = None,
    wait_timeout: WaitTimeout = "",
    release_command_timeout: ReleaseTimeout = "",
    lease_timeout: LeaseTimeout = "13s",
    rollback: Rollback = True,
    ha: Ha = True,
    smoke_checks: SmokeChecks = True,
    detach: Detach = False,
    max_concurrent: MaxConcurrent = 8,
    update_only: Annotated[bool, typer.Option("--update-only", help="Make no Machines for new groups.")] = False,
    skip_release_command: Annotated[bool, typer.Option("--skip-release-command")] = False,
    seed: Annotated[
        bool, typer.Option("--seed", hidden=True, help="Run seed_command too, as launch does the first time.")
    ] = False,
    primary_region: Annotated[str, typer.Option("--primary-region", help="Instead of the file's.")] = "",
    process_groups: Annotated[str, typer.Option("--process-groups", help="Only these, separated by commas.")] = "",
    only_regions: Annotated[str, typer.Option("--only-regions", "--regions", help="Only Machines there.")] = "",
    exclude_regions: Annotated[str, typer.Option("--exclude-regions")] = "",
    only_machines: Annotated[str, typer.Option("--only-machines", help="Only these, by id.")] = "",
    exclude_machines: Annotated[str, typer.Option("--exclude-machines")] = "",
    signal_: Annotated[str, typer.Option("--signal", "-s", help="With which bluegreen stops the old Machines.")] = "",
    vm_size: VmSize = "",
    vm_memory: VmMemory = "",
    vm_cpus: VmCpus = 0,
    vm_cpu_kind: VmCpuKind = "",
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Deploy the app of a folder: build its image, and put it on its Machines."""
    from caddisfly.launch.config import app_name
    from caddisfly.launch.deploy.deployment import Order
    from caddisfly.launch.deploy.options import Options, Selection

    if remote_only and order.local_only:
        raise InvalidArgument("--remote-only and --local-only exclude each other")
    environment, variables = _environment(env)
    toml, section, name = _config(directory, app, config, environment, lenient=lenient, app_name=app_name)
    toml = with_flags(toml, variables, primary_region, strategy)
    options = Options(
        strategy=strategy or toml.deploy.strategy,
        max_unavailable=toml.deploy.max_unavailable if max_unavailable is None else _above_zero(max_unavailable),
        wait_timeout_s=seconds(wait_timeout, "--wait-timeout", toml.deploy.wait_timeout.seconds),
        release_command_timeout_s=seconds(
            release_command_timeout, "--release-command-timeout", toml.deploy.release_command_timeout.seconds
        ),
        lease_ttl_s=_lease_ttl(lease_timeout),
        concurrent=max_concurrent,
        ha=ha,
        smoke_checks=smoke_checks,
        detach=detach,
        update_only=update_only,
        skip_release_command=skip_release_command,
        seed=seed,
        rollback=rollback,
        signal=signal_,
        guest=_guest(vm_size, vm_memory, vm_cpus, vm_cpu_kind),
        selection=Selection(
            groups=_words(process_groups),
            regions=_words(only_regions),
            without_regions=_words(exclude_regions),
            machines=_words(only_machines),
            without_machines=_words(exclude_machines),
        ),
    )
    wanted = Order(app=name, config=toml, options=options, version=caddisfly.__version__)
    folder = (Path.cwd() / directory).resolve()
    if build_only:
        show.line(_built(order, folder, section, image, name))
        return
    found = _look(wanted)
    if plan:
        _show_plan(found, _planned_image(order, folder, section, image), json=json)
        return
    wanted = replace(wanted, image=_built(order, folder, section, image, name))
    deploying.finish(deploying.carry_out(wanted), wanted, json=json)


def _look(order: Order) -> Situation:
    """Refuse what cannot work before anything is built."""
    from caddisfly.launch.deploy import bluegreen, deployment

    async def work(client: AsyncClient) -> Situation:
        await client.apps.get(order.app)
        found: Situation = await deployment.look(client, order)
        if found.plan.strategy == "bluegreen":
            bluegreen.refuse(found.plan)
        return found

    return deploying.run(work)


def _show_plan(found: Situation, image: str, *, json: bool) -> None:
    from caddisfly.launch.deploy import describe

    if json:
        show.result(describe.to_wire(found.plan, image=image))
        return
    for line in describe.lines(found.plan, image=image, files=found.plan.config.sources, configs=True):
        show.line(line)


def _built(build: build_flags.Order, folder: Path, section: Any, image: str, app: str) -> str:
    """The image to deploy, by digest where it is known."""
    from caddisfly.launch.build import display

    if image:
        return image
    prepared = build.prepare(folder, section)
    if prepared.recipe.image:
        return str(prepared.recipe.image)
    with display.choose(sys.stderr) as shown:
        made = build.make(prepared, shown, app=app)
    return f"{made.image}@{made.digest}" if made.digest and "@" not in made.image else str(made.image)


def _planned_image(build: build_flags.Order, folder: Path, section: Any, image: str) -> str:
    if image:
        return image
    prepared = build.prepare(folder, section)
    if prepared.recipe.image:
        return str(prepared.recipe.image)
    how = prepared.plan.dockerfile.name if prepared.plan else prepared.recipe.builder or "buildpacks"
    return f"to be built from {how} in {folder}"


def _config(
    directory: Path, app: str, given: str, environment: str, *, lenient: bool, app_name: Callable[..., str]
) -> tuple[AppConfig, Any, str]:
    """The file, what its `[build]` says, and the app. Raises `FailedPrecondition` when the file is of another app."""
    from caddisfly.launch.config import locate

    toml, section = build_flags.fly_toml(directory, given, environment, lenient=lenient)
    if not toml.sources:
        raise FailedPrecondition(
            f"no fly.toml in {directory.resolve()}",
            why="a deploy needs to know what to run",
            next="caddis launch makes one; -c PATH names another",
        )
    name = app_name(app, toml.app)
    locate.refuse_other(name, toml.app, toml.sources[-1])
    return toml, section, name


def with_flags(toml: AppConfig, variables: dict[str, str], primary_region: str, strategy: str) -> AppConfig:
    """What flags change in it, also in what is kept with the release; `-e` is not kept, as on Fly."""
    from caddisfly.launch.config.deploy import STRATEGIES

    if strategy and strategy not in STRATEGIES:
        raise InvalidArgument(
            f"unsupported deployment strategy '{strategy}'",
            why=f"the strategies are {', '.join(STRATEGIES)}",
            next="--strategy rolling",
        )
    if strategy == "canary" and toml.mounts:
        raise InvalidArgument("error canary deployment strategy is not supported when using mounted volumes")
    if variables:
        toml = replace(toml, env={**toml.env, **variables})
    if primary_region:
        toml = replace(
            toml, primary_region=primary_region, definition={**toml.definition, "primary_region": primary_region}
        )
    return toml


def _environment(given: list[str] | None) -> tuple[str, dict[str, str]]:
    """`--env staging` names an overlay, `-e A=1` sets a variable: both are called so, and no name has a `=`."""
    overlays = [one for one in given or () if "=" not in one]
    if len(overlays) > 1:
        raise InvalidArgument(
            f"--env names two overlays, {overlays[0]} and {overlays[1]}", next="a variable is -e NAME=VALUE"
        )
    variables = build_flags.pairs([one for one in given or () if "=" in one], "--env")
    return (overlays[0] if overlays else ""), variables


def _guest(size: str, memory: str, cpus: int, kind: str) -> dict[str, Any]:
    from caddisfly.cli.machine_config import Wish

    if not (size or memory or cpus or kind):
        return {}
    wish = Wish(vm_size=size, vm_memory=memory, vm_cpus=cpus, vm_cpu_kind=kind)
    return dict(wish.config()["guest"])


def seconds(given: str, flag: str, otherwise: float) -> float:
    from caddisfly.model.duration import Duration

    if not given:
        return otherwise
    if given == "none":
        return math.inf
    found = float(given) if given.isdecimal() else Duration.parse(given, field=flag).seconds
    if found <= 0:
        raise InvalidArgument(f"{flag} must be above 0", next=f"{flag} 5m")
    return found


def _lease_ttl(given: str) -> int:
    ttl_s = seconds(given, "--lease-timeout", 13.0)
    if not 5 <= ttl_s <= 3600:
        raise InvalidArgument("--lease-timeout must be from 5s to 1h", next="--lease-timeout 13s")
    return int(ttl_s)


def _above_zero(value: float) -> float:
    if value <= 0:
        raise InvalidArgument("--max-unavailable must be above 0", next="--max-unavailable 0.33")
    return value


def _words(given: str) -> tuple[str, ...]:
    return tuple(word for part in given.split(",") if (word := part.strip()))
