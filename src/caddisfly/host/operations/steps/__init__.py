"""The steps, by name. Each may be run again after a crash at any point inside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from caddisfly.host.operations import plans
from caddisfly.host.operations.steps import (
    attach_network,
    await_exit,
    back_off,
    check_snapshot,
    drop_snapshot,
    fetch_image,
    mount_root,
    put_away,
    release_sandbox,
    resume_sandbox,
    save_memory,
    seal_snapshot,
    signal_sandbox,
    start_sandbox,
)
from caddisfly.host.operations.work import Work

Step = Callable[[Work], Awaitable[None]]

STEPS: dict[str, Step] = {
    plans.FETCH_IMAGE: fetch_image.run,
    plans.MOUNT_ROOT: mount_root.run,
    plans.ATTACH_NETWORK: attach_network.run,
    plans.START_SANDBOX: start_sandbox.run,
    plans.SIGNAL_SANDBOX: signal_sandbox.run,
    plans.AWAIT_EXIT: await_exit.run,
    plans.RELEASE_SANDBOX: release_sandbox.run,
    plans.BACK_OFF: back_off.run,
    plans.SAVE_MEMORY: save_memory.run,
    plans.PUT_AWAY: put_away.run,
    plans.SEAL_SNAPSHOT: seal_snapshot.run,
    plans.CHECK_SNAPSHOT: check_snapshot.run,
    plans.RESUME_SANDBOX: resume_sandbox.run,
    plans.DROP_SNAPSHOT: drop_snapshot.run,
}
