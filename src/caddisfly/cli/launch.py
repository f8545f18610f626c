"""`caddis launch`: from a folder to an app that runs. First what will be, then the questions, then all of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from caddisfly.cli import account, secrets, show, target
from caddisfly.cli.build_flags import BuildArg, BuildSecret, Dockerfile, LocalOnly, pairs
from caddisfly.cli.config import Lenient
from caddisfly.cli.consent import Consent
from caddisfly.cli.deploy import Ha, WaitTimeout
from caddisfly.cli.deploy import deploy as deploy_folder
from caddisfly.cli.detect import Framework
from caddisfly.cli.machine_flags import Org, VmCpuKind, VmCpus, VmMemory, VmSize
from caddisfly.model.errors import AlreadyExists, FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from caddisfly.launch.detect import Change
    from caddisfly.launch.plan.apps import Own
    from caddisfly.launch.plan.draft import Draft
    from caddisfly.launch.plan.plan import Plan, Present
    from caddisfly.launch.plan.wishes import Wishes

_NO_WORKFLOW = "OPT_OUT_GITHUB_ACTIONS"
_UNUSED = typer.Option(hidden=True, help="No effect: nothing of the kind is made here.")


def launch(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder with the source.")] = Path("."),
    name: Annotated[str, typer.Option("--name", help="Of the app. Default: that of the fly.toml or the folder.")] = "",
    generate_name: Annotated[bool, typer.Option("--generate-name", help="Add three words to the name.")] = False,
    org: Org = "",
    region: Annotated[str, typer.Option("--region", "-r", help="Where its Machines run. Default: the nearest.")] = "",
    config: Annotated[
        str, typer.Option("--config", "-c", help="The fly.toml. Default: FLY_CONFIG, else that of the folder.")
    ] = "",
    copy_config: Annotated[
        bool, typer.Option("--copy-config", help="Keep the fly.toml that is there without asking.")
    ] = False,
    image: Annotated[str, typer.Option("--image", "-i", help="Run this image; nothing is built.")] = "",
    dockerfile: Dockerfile = "",
    framework: Framework = "",
    internal_port: Annotated[
        int | None, typer.Option("--internal-port", help="Port that the app listens on; 0: none.", show_default=False)
    ] = None,
    command: Annotated[str, typer.Option("--command", help="What the group app runs.")] = "",
    volume: Annotated[
        list[str] | None, typer.Option("--volume", "-v", metavar="NAME:/PATH[:KEY=VALUE,...]", help="A volume.")
    ] = None,
    auto_stop: Annotated[str, typer.Option("--auto-stop", help="When idle: off, stop or suspend.")] = "",
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", metavar="NAME=VALUE", help="Variable. Can be repeated.")
    ] = None,
    vm_size: VmSize = "",
    vm_memory: VmMemory = "",
    vm_cpus: VmCpus = 0,
    vm_cpu_kind: VmCpuKind = "",
    secret: Annotated[
        list[str] | None, typer.Option("--secret", metavar="NAME=VALUE", help="Secret. Can be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write fly.json instead of fly.toml.")] = False,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Write fly.yaml instead of fly.toml.")] = False,
    from_: Annotated[str, typer.Option("--from", metavar="URL", help="Clone this repository first.")] = "",
    into: Annotated[Path | None, typer.Option("--into", metavar="DIR", help="Where --from clones it.")] = None,
    dockerignore_from_gitignore: Annotated[
        bool, typer.Option("--dockerignore-from-gitignore", help="Make .dockerignore from .gitignore without asking.")
    ] = False,
    no_github_workflow: Annotated[
        bool, typer.Option("--no-github-workflow", envvar=_NO_WORKFLOW, help="No workflow that deploys each push.")
    ] = False,
    build_arg: BuildArg = None,
    build_secret: BuildSecret = None,
    local_only: LocalOnly = False,
    ha: Ha = True,
    wait_timeout: WaitTimeout = "",
    no_deploy: Annotated[bool, typer.Option("--no-deploy", help="Do all but deploy.")] = False,
    now: Annotated[
        bool, typer.Option("--now", help="Do not ask; deploy, also what should be looked at first.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask: the answer is yes.")] = False,
    lenient: Lenient = False,
    remote_only: Annotated[bool, typer.Option(hidden=True, help="Build on the platform, as is the default.")] = False,
    no_db: Annotated[bool, _UNUSED] = False,
    no_redis: Annotated[bool, _UNUSED] = False,
    no_object_storage: Annotated[bool, _UNUSED] = False,
) -> None:
    """Make an app of a folder: find out what it is, write what is missing, and deploy it."""
    from caddisfly.launch.plan import source, template
    from caddisfly.launch.plan.draft import Draft
    from caddisfly.launch.plan.surroundings import Surroundings
    from caddisfly.launch.plan.unfinished import Unfinished
    from caddisfly.launch.plan.wishes import Wishes

    consent = Consent(yes or now)
    given = secrets.said(secret or (), "--secret", next="--secret NAME=VALUE")
    if remote_only and local_only:
        raise InvalidArgument("--remote-only and --local-only exclude each other")
    if into and not from_:
        raise InvalidArgument("--into says where --from clones, and there is no --from", next="add --from URL")
    if from_:
        directory = into or directory
        if template.fetched(from_, directory, asks=consent.asks):
            show.note(f"Cloned {from_}")
    directory = directory.resolve()  # its name may become the app's
    known = account.load().needed()
    present = _present(directory, config, _format(as_json, as_yaml), consent, copy=copy_config, lenient=lenient)
    vm = {"size": vm_size, "memory": vm_memory, "cpus": vm_cpus, "cpu_kind": vm_cpu_kind}
    wishes = Wishes(
        name=name,
        generate_name=generate_name,
        org=org,
        region=region,
        image=image,
        dockerfile=_placed(dockerfile, directory),
        framework=framework,
        port=internal_port,
        command=command,
        volumes=tuple(volume or ()),
        auto_stop=auto_stop,
        env=pairs(env or (), "--env"),
        vm={key: value for key, value in vm.items() if value},
    )
    unfinished = Unfinished.read(account.file().parent / "launches", file=present.path, api_url=known.api_url)
    with target.client() as client:
        draft = Draft(
            client=client,
            directory=directory,
            present=present,
            source=source.found(directory, wishes, present.config, again=unfinished.framework),
            around=Surroundings.of(client),
            unfinished=unfinished,
            strict=not lenient,
            pair=ha,
        )
        plan = _agreed(draft, wishes, consent)
        changes = _changes(plan, consent, ignore=dockerignore_from_gitignore, workflow=not no_github_workflow)
        plan, there = _carried_out(draft, plan, changes, given)
        first = not client.machines.list(plan.name.value)
    obstacles = _outlook(plan, there, now=now)
    if no_deploy:
        show.note(f"Next: caddis deploy{_flags(plan)}")
        return
    if obstacles:
        raise FailedPrecondition(
            f"{plan.name.value} is launched, but not deployed",
            why="\n".join(obstacles),
            next=f"when that is done: caddis deploy{_flags(plan)}",
        )
    deploy_folder(
        plan.directory,
        config="" if _usual(plan) else str(plan.present.path),
        lenient=lenient,
        build_arg=build_arg,
        build_secret=build_secret,
        local_only=local_only,
        ha=ha,
        wait_timeout=wait_timeout,
        yes=True,
        seed=first,
    )


def _agreed(draft: Draft, wishes: Wishes, consent: Consent) -> Plan:
    """The plan that somebody has seen, and perhaps changed. Raises `AlreadyExists` for an app that is not meant."""
    plan, own = draft.plan(wishes)
    _show(plan, own)
    if consent.asks and typer.confirm("Change any of this?", default=False, err=True):
        plan, own = draft.plan(_tweaked(plan, draft, consent))
        _show(plan, own)
    if own and not own.meant:
        question = f"App {own.name} exists already, with {own.machines} Machines. Is this folder its source?"
        if not (consent.asks and consent.given(question)):
            raise AlreadyExists(
                f"app {own.name} exists already, with {own.machines} Machines",
                why="nothing here says that this folder is its source",
                next=f'--name with another one; if it is, app = "{own.name}" in {plan.present.path.name} says so',
            )
    return plan


def _tweaked(plan: Plan, draft: Draft, consent: Consent) -> Wishes:
    """Asked one by one; what is left as it is stays unsaid."""
    from caddisfly.model.app import check_app_name

    wishes = plan.wishes
    name = consent.text("Name", plan.name.value, check=check_app_name)
    region = consent.text("Region", plan.region.value, check=lambda said: draft.around.region(said, "").value)
    memory = consent.text("Memory", _memory(plan))
    http = plan.config().http_service
    port = int(consent.text("Port, 0 for none", str(http.internal_port if http else 0), check=int))
    if name != plan.name.value:
        wishes = replace(wishes, name=name)
    if region != plan.region.value:
        wishes = replace(wishes, region=region)
    if memory != _memory(plan):
        wishes = replace(wishes, vm={**wishes.vm, "memory": memory})
    if port != (http.internal_port if http else 0):
        wishes = replace(wishes, port=port)
    return wishes


def _memory(plan: Plan) -> str:
    vms = plan.config().vms
    return f"{vms[0].guest['memory_mb']}mb" if vms else "256mb"


def _show(plan: Plan, own: Own | None) -> None:
    show.pairs({label: f"{one.value} ({one.origin})" if one.origin else one.value for label, one in plan.rows()})
    if own and own.meant:
        show.note(f"App {own.name} exists already, and {own.meant}: this goes on with it")
    for text in plan.notes():
        show.note(f"Note: {text}")


def _changes(plan: Plan, consent: Consent, *, ignore: bool, workflow: bool) -> list[Change]:
    """What is to be written, as far as it was agreed to. A file that is there is shown as a difference first."""
    from caddisfly.launch.detect import opened
    from caddisfly.launch.plan import workflow as github

    agreed = []
    for change in plan.source.changes:
        if change.new or _replaces(change, consent):
            agreed.append(change)
        else:
            show.note(f"{change.path} stays as it is")
    ignored = plan.source.ignored
    if ignored and (ignore or (consent.asks and consent.given("Make .dockerignore from .gitignore?", default=True))):
        agreed.append(ignored)
    if workflow and (deploys := github.change(opened(plan.directory), api_url=account.load().api_url)):
        agreed.append(deploys)
    file = plan.file()
    if file and not file.new and not _replaces(file, consent):
        raise typer.Abort
    return agreed


def _replaces(change: Change, consent: Consent) -> bool:
    show.note(change.diff().rstrip("\n"))
    return consent.given(f"Change {change.path}?")


def _carried_out(
    draft: Draft, plan: Plan, changes: list[Change], given: Mapping[str, str]
) -> tuple[Plan, frozenset[str]]:
    """The app, the files, the secrets, each of which may be there from an earlier time; and the secrets that it has."""
    from caddisfly.launch.detect import apply
    from caddisfly.launch.plan import apps, secrets, workflow

    client, unfinished = draft.client, draft.unfinished
    if unfinished.name and unfinished.name != plan.name.value:
        show.note(f"An earlier launch of this folder was to make app {unfinished.name}, which it leaves to you")
    if apps.own(client, plan, unfinished) is None:
        plan, unfinished = apps.create(client, plan, unfinished)
        show.line(f"New app {plan.name.value}")
    apply(plan.directory, changes)
    for change in changes:
        show.line(f"{'New file' if change.new else 'Changed'} {change.path}")
    if file := plan.file():
        apply(plan.present.path.resolve().parent, [file])
        show.line(f"{'New file' if file.new else 'Changed'} {plan.present.path.name}")
    app = plan.name.value
    there = frozenset(str(one["name"]) for one in client.secrets.list(app))
    values = secrets.values(plan, given=given, there=there)
    if values:
        client.secrets.change(app, values)
        show.line(f"Set secrets {', '.join(sorted(values))}")
    unfinished.done()
    if any(change.path == workflow.PATH for change in changes):
        for step in workflow.next_steps(app, api_url=account.load().api_url):
            show.note(f"For {workflow.PATH}: {step}")
    return plan, there | values.keys()


def _outlook(plan: Plan, there: frozenset[str], *, now: bool) -> list[str]:
    """Say what is still missing, and return what a deploy has to wait for."""
    from caddisfly.launch.plan import secrets

    app = plan.name.value
    for service in plan.settings.services:
        if unset := [name for name in service.secrets if name not in there]:
            words = " ".join(f"{name}=..." for name in unset)
            show.note(f"It needs {service.kind} ({service.why}), which is yours to bring. When you have one:")
            show.note(f"  caddis secrets set {words} -a {app}")
    for secret in secrets.missing(plan, there):
        show.note(f"It needs {secret.name} ({secret.why}):")
        show.note(f"  caddis secrets set {secret.name}=... -a {app}")
    for text in plan.source.review:
        show.note(f"Look at this before the first deploy: {text}")
    return [*secrets.obstacles(plan, there), *(() if now else plan.source.review)]


def _flags(plan: Plan) -> str:
    """What `caddis deploy` has to be told here."""
    where = "" if plan.directory == Path.cwd() else f" {os.path.relpath(plan.directory)}"
    return where if _usual(plan) else f"{where} -c {plan.present.path}"


def _usual(plan: Plan) -> bool:
    """Whether its file is one that is found without being named."""
    from caddisfly.launch.config import locate

    return plan.present.path.parent == plan.directory and plan.present.path.name in locate.NAMES


def _present(directory: Path, given: str, name: str, consent: Consent, *, copy: bool, lenient: bool) -> Present:
    """The fly.toml that is there, and whether it is kept; else where it will be."""
    from caddisfly.launch import config as launch
    from caddisfly.launch.config import locate
    from caddisfly.launch.plan.plan import Present

    named = bool(given or os.environ.get(locate.VARIABLE))
    if not named and not any((directory / known).is_file() for known in locate.NAMES):
        return Present(path=directory / (name or locate.NAMES[0]))
    files = launch.find(given, directory=None if named else directory)
    if name and files.base.name != name:
        raise FailedPrecondition(
            f"there is a {files.base.name} already",
            why=f"two files for one app would contradict each other, and {name} was asked for",
            next=f"leave the flag out, or remove {files.base.name}",
        )
    text = files.base.read_text(encoding="utf-8-sig")
    if not (copy or named) and consent.asks:
        copy = typer.confirm(f"Use the {files.base.name} that is here for this app?", default=True, err=True)
        if not copy:
            return Present(path=files.base, text=text)
    return Present(path=files.base, text=text, config=launch.load(files, strict=not lenient))


def _format(as_json: bool, as_yaml: bool) -> str:
    if as_json and as_yaml:
        raise InvalidArgument("--json and --yaml exclude each other", next="choose one")
    return "fly.json" if as_json else "fly.yaml" if as_yaml else ""


def _placed(dockerfile: str, directory: Path) -> str:
    """As `[build]` has it: a URL, or relative to the folder."""
    if not dockerfile or "://" in dockerfile:
        return dockerfile
    path = Path.cwd() / dockerfile
    if not path.is_file():
        raise InvalidArgument(f"dockerfile '{dockerfile}' not found", why=f"there is no file {path}")
    return os.path.relpath(path.resolve(), directory.resolve())
