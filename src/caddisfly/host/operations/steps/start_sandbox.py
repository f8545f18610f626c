"""Write what the Machine finds inside, and start its program, or its several programs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from caddisfly.host.drivers.driver import Member, Sandbox
from caddisfly.host.guest import Surroundings
from caddisfly.host.operations.steps import attach_network, mount_root
from caddisfly.host.operations.work import Work, log_of
from caddisfly.model.program import Program


async def run(work: Work) -> None:
    # After a crash the steps before this one are run again, because what they gave lived in the agent's memory.
    if not work.roots:
        await mount_root.run(work)
    if work.netns is None:
        await attach_network.run(work)
    await work.parts.driver.start(await compiled(work, fresh=True))


async def compiled(work: Work, *, fresh: bool) -> Sandbox:
    """As a driver takes it. `fresh`: it begins to run, and finds its files as its config says."""
    secrets = await work.parts.open_secrets(work.machine)
    programs = work.machine.config.programs
    if not programs:
        return await _compile(work, None, secrets, fresh=fresh)
    members = tuple([_member(program, await _compile(work, program, secrets, fresh=fresh)) for program in programs])
    return replace(members[0].sandbox, members=members)


async def _compile(work: Work, program: Program | None, secrets: Mapping[str, str], *, fresh: bool) -> Sandbox:
    container = program.name if program is not None and program.image else ""
    name = program.name if program is not None else ""
    assert work.netns is not None
    surroundings = Surroundings(
        program=program,
        image=work.images[container].resolved.config,
        secrets=secrets,
        image_configs=work.image_configs,
        root=work.roots[container].path,
        drives=work.roots[container].drives,
        netns=work.netns,
        log=log_of(work.parts.settings, work.machine.id, name),
        settings=work.parts.settings,
        fresh=fresh,
    )
    return await asyncio.to_thread(work.parts.compile, work.machine, surroundings)


def _member(program: Program, sandbox: Sandbox) -> Member:
    return Member(
        name=program.name,
        sandbox=sandbox,
        restart=program.restart,
        stop=program.stop,
        after=program.after,
        essential=program.essential,
    )
