"""From a folder to an image, the whole way: for `caddis build`, and for whatever deploys what it builds.

`prepare` finds every mistake that can be found here. Then the folder goes to a host, `on_platform`, or to a builder of
this computer, `here`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from caddisfly.client import Client
from caddisfly.client.calls import Json
from caddisfly.launch.build import context, display, dockerfile, ignore, local, plainer, recipe, stages
from caddisfly.launch.build.context import Folder
from caddisfly.launch.build.delivery import Delivery, deliver
from caddisfly.launch.build.display import Display
from caddisfly.launch.build.ignore import Rules
from caddisfly.launch.build.local import BuildFailed, LocalOrder
from caddisfly.launch.build.push import Registry
from caddisfly.launch.build.recipe import Recipe, Wishes
from caddisfly.launch.build.remote import Builds, Order, RegistryPlace
from caddisfly.launch.build.stages import Plan
from caddisfly.model import ids
from caddisfly.model.errors import Aborted, FailedPrecondition, Unavailable

FLYS_REGISTRY = "registry.fly.io"
"""What every platform calls its own registry, besides its own name for it."""
_BIGGEST = 3
_AGAIN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What a build gets besides its folder."""

    tag: str
    labels: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    no_cache: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """`plan` is None for buildpacks; `folder` has nothing for an image that exists."""

    recipe: Recipe
    rules: Rules
    folder: Folder
    plan: Plan | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """`digest` is empty for an image that is only on this computer; `build` is the API's, for one made on a host."""

    image: str
    digest: str = ""
    build: Json = field(default_factory=dict)


def generated_tag() -> str:
    """As flyctl makes them; tags of this form are known to belong to deployments."""
    return f"deployment-{ids.ulid()}"


def prepare(directory: Path, *, section: Wishes, flags: Wishes) -> Prepared:
    """Raises a `Problem` for what cannot work, before anything is sent."""
    chosen = recipe.choose(directory, section=section, flags=flags)
    if chosen.image:
        return Prepared(recipe=chosen, rules=ignore.defaults(), folder=Folder(directory, ignore.defaults(), ()))
    rules = ignore.choose(directory, dockerfile=chosen.path, ignorefile=chosen.ignorefile)
    if not chosen.dockerfile:
        return Prepared(recipe=chosen, rules=rules, folder=context.walk(directory, rules))
    name = _shown(chosen.dockerfile, directory)
    plan = stages.plan(dockerfile.read(chosen.content(), name=name), target=chosen.target, args=chosen.args)
    folder = context.walk(directory, rules)
    plan.check_sources(folder)
    return Prepared(recipe=chosen, rules=rules, folder=folder, plan=plan)


def describe(prepared: Prepared, shown: Display, *, warn_bytes: int) -> None:
    """What will be built from what, and what is odd about it."""
    chosen, folder = prepared.recipe, prepared.folder
    if prepared.plan is not None:
        used = prepared.plan.dockerfile.name
        shown.say(f"Dockerfile: {used}")
    else:
        used = chosen.builder or "buildpacks"
        shown.say(f"Builder: {used}")
    for other in chosen.ignored:
        shown.say(f"Warning: ignoring {other}, and using {used}")
    for doubt in prepared.plan.doubts if prepared.plan is not None else ():
        shown.say(f"Warning: {doubt}")
    shown.say(f"Context: {folder.root}, {folder.file_count} files, {display.size(folder.size)}")
    if not prepared.rules.origin:
        left_out = ", ".join(pattern.removeprefix("**/") for pattern in ignore.DEFAULTS)
        shown.say(f"There is no .dockerignore: {left_out} are left out")
    biggest = ", ".join(f"{entry.path} {display.size(entry.size)}" for entry in folder.biggest(_BIGGEST))
    if folder.size > warn_bytes:
        shown.say(f"Warning: the context is larger than {display.size(warn_bytes)}; the biggest files are {biggest}")
        shown.say("What a build does not need can be named in .dockerignore")
    elif biggest:
        shown.say(f"Biggest files: {biggest}")


def on_platform(
    prepared: Prepared, extras: Extras, shown: Display, *, client: Client, app: str, place: RegistryPlace, token: str
) -> Made:
    """Build on a host; the image is in the platform's registry afterwards. Raises `BuildFailed`."""
    if prepared.plan is None:
        raise FailedPrecondition(
            "hosts build Dockerfiles only",
            why="[build] in fly.toml names buildpacks",
            next="build here: caddis build --local-only --push",
        )
    content, warnings = plainer.rewrite(prepared.plan.dockerfile)
    for warning in warnings:
        shown.say(f"Warning: {warning}")
    delivered = _send(prepared.folder, content, shown, app=app, place=place, token=token)
    order = Order(
        context=delivered.digest,
        dockerfile=prepared.plan.dockerfile.name,
        tag=extras.tag,
        target=prepared.recipe.target,
        args=prepared.recipe.args,
        labels=extras.labels,
        secrets=extras.secrets,
        no_cache=extras.no_cache,
    )
    builds = Builds(client, app)
    for _ in range(_AGAIN):
        shown.doing("Waiting for a builder")
        build = builds.follow(str(builds.start(order)["id"]), shown)
        if build["state"] != "interrupted":
            break
        shown.say("The host stopped in the middle of it; it goes on from the cache")
    if build["state"] == "done":
        return Made(image=str(build["image"]), digest=str(build["digest"]), build=build)
    if build["state"] == "cancelled":
        raise Aborted(f"build {build['id']} was cancelled")
    if build["state"] == "interrupted":
        raise Unavailable(
            "the host stopped in the middle of the build", why=f"{_AGAIN} times", next="try it again later"
        )
    raise _failure(build, shown)


def here(prepared: Prepared, extras: Extras, shown: Display, *, image: str) -> tuple[Made, str]:
    """Build on this computer. The image is in the builder's store afterwards; the builder is the second of the pair."""
    order = LocalOrder(
        image=image,
        dockerfile=prepared.plan.dockerfile.content if prepared.plan is not None else b"",
        target=prepared.recipe.target,
        args=prepared.recipe.args,
        labels=extras.labels,
        secrets=extras.secrets,
        no_cache=extras.no_cache,
    )
    if prepared.plan is None:
        packs = prepared.recipe.buildpacks
        local.build_with_packs(prepared.folder, order, shown, builder=prepared.recipe.builder, buildpacks=packs)
        return Made(image=image), "docker"
    builder = local.find_builder()
    shown.say(f"Building with {builder}")
    local.build(prepared.folder, order, shown, builder=builder)
    return Made(image=image), builder


def _send(folder: Folder, content: bytes, shown: Display, *, app: str, place: RegistryPlace, token: str) -> Delivery:
    def told(now: Delivery) -> None:
        shown.doing(f"Sending: {now.done} of {now.packs} packs, {display.size(now.sent_bytes)}")

    with Registry(place.url, app, password=token) as registry:
        shown.doing("Sending")
        delivered = deliver(folder, content, registry, told=told)
    shown.say(f"Sent: {delivered.sent} of {delivered.packs} packs, {display.size(delivered.sent_bytes)}")
    return delivered


def _failure(build: Json, shown: Display) -> BuildFailed:
    failure = build.get("failure") or {}
    what = str(failure.get("what") or f"build {build.get('id')} failed")
    why = [*shown.last_lines, display.plain(str(failure.get("why") or ""))]
    return BuildFailed(what, why="\n".join(line for line in why if line), next=str(failure.get("next") or ""))


def _shown(name: str, directory: Path) -> str:
    """A Dockerfile as people name it: by its place in the folder, if it is there."""
    path = Path(name)
    return str(path.relative_to(directory)) if path.is_relative_to(directory) else name
