"""From a fly.toml to the config of Machines, one per process group (reference fly-launch, 1.14). Pure, and cannot
fail.

On a redeploy the Machine's present config comes in. What a fly.toml has keys for is reset to what the file says; what
it has none for (schedule, dns, standbys, metadata of others) stays.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from caddisfly.launch.config import containers, files, vm
from caddisfly.launch.config.app_config import AppConfig
from caddisfly.launch.config.checks import MachineCheck
from caddisfly.model.guest import Guest

RELEASE_GROUP = "fly_app_release_command"
CONSOLE_GROUP = "fly_app_console"
TEST_GROUP = "fly_app_test_machine_command"
SPECIAL_GROUPS = (RELEASE_GROUP, CONSOLE_GROUP, TEST_GROUP)
GROUP_KEY = "fly_process_group"
PLATFORM_KEY = "fly_platform_version"
PLATFORM = "v2"
RELEASE_SIZE_DEFAULT = "shared-cpu-2x"
STANDBY_ENV = "FLY_STANDBY_FOR"
_RESET = ("metrics", "services", "checks", "statics", "mounts", "files", "restart", "stop_config")
_RESET_INIT = ("cmd", "entrypoint", "exec", "swap_size_mb")
_MOUNT_KEPT = ("volume", "encrypted", "size_gb")

Wire = dict[str, Any]


def machine_config(app: AppConfig, group: str, *, existing: Mapping[str, Any] | None = None, image: str = "") -> Wire:
    """The config of a Machine of this group. Without an image it keeps the one it has, if any."""
    config: Wire = _merged(existing or {}, app.base)
    before = existing or {}
    config["init"] = _init(app, group, config.get("init") or {})
    config["env"] = _env(app, group)
    if before.get("standbys") and STANDBY_ENV in (before.get("env") or {}):
        config["env"][STANDBY_ENV] = before["env"][STANDBY_ENV]  # Fly forgets it at the first update
    config["metadata"] = {**(config.get("metadata") or {}), PLATFORM_KEY: PLATFORM, GROUP_KEY: group}
    for name in _RESET:
        config.pop(name, None)
    config |= _given(
        {
            "services": [service.to_wire() for service in app.services_of(group)],
            "checks": {check.name: check.to_wire() for check in app.checks_of(group)},
            "metrics": next((one.to_wire() for one in app.groups.select(app.metrics, group)), None),
            "statics": [static.to_wire() for static in app.statics if not static.local or static.tigris_bucket],
            "mounts": _mounts(app, group, before.get("mounts") or []),
            "files": _files(app, group),
            "restart": next((one.to_wire() for one in reversed(app.groups.select(app.restarts, group))), None),
            "stop_config": _stop(app),
        }
    )
    chosen = vm.chosen(app.vms, group)
    if chosen is not None:
        config["guest"] = chosen.to_wire(app.host_dedication_id)
    return containers.with_image(config, app.container, image) if image else config


def release_machine(
    app: AppConfig, *, image: str = "", guest: Mapping[str, Any] | None = None, command: tuple[str, ...] = ()
) -> Wire:
    """Of the Machine that runs `release_command`, or `command`, once. `guest` is for a file without a size."""
    said = app.deploy.release_command_vm
    return {
        **({"image": image} if image else {}),
        "init": _given(
            {
                "cmd": list(command or app.deploy.release_command),
                "entrypoint": list(app.experimental.entrypoint),
                "swap_size_mb": app.swap_size_mb,
            }
        ),
        "env": {**_env(app, RELEASE_GROUP), "RELEASE_COMMAND": "1"},
        "metadata": {PLATFORM_KEY: PLATFORM, GROUP_KEY: RELEASE_GROUP},
        "restart": {"policy": "no"},
        "auto_destroy": True,
        "dns": {"skip_registration": True},
        "guest": said.to_wire(app.host_dedication_id)
        if said
        else dict(guest or Guest.of_preset(RELEASE_SIZE_DEFAULT).to_wire()),
        **_given({"stop_config": _stop(app), "files": _files(app, app.groups.default)}),
    }


def console_machine(app: AppConfig, *, image: str = "", guest: Mapping[str, Any] | None = None) -> Wire:
    """Of a Machine to run `console_command` in."""
    return {
        **({"image": image} if image else {}),
        "init": _given({"exec": ["/bin/sleep", "inf"], "swap_size_mb": app.swap_size_mb}),
        "env": _env(app, CONSOLE_GROUP),
        "metadata": {PLATFORM_KEY: PLATFORM, GROUP_KEY: CONSOLE_GROUP},
        "restart": {"policy": "no"},
        "auto_destroy": True,
        "dns": {"skip_registration": True},
        **_given({"guest": dict(guest or {}), "files": _files(app, app.groups.default)}),
    }


def check_machine(
    app: AppConfig, check: MachineCheck, *, tested: Mapping[str, Any], private_ip: str = "", image: str = ""
) -> Wire:
    """Of the Machine that runs a machine check. `tested` is the config of the Machine it is about."""
    init = tested.get("init") or {}
    entrypoint = app.experimental.entrypoint or check.entrypoint or tuple(init.get("entrypoint") or ())
    own = bool(check.image)
    stop = {
        "signal": check.kill_signal or ("" if own else app.kill_signal),
        "timeout": str(check.kill_timeout or ("" if own else app.kill_timeout or "")),
    }
    return {
        "image": check.image or image or tested.get("image", ""),
        "init": _given({"cmd": list(check.command), "entrypoint": list(entrypoint), "swap_size_mb": app.swap_size_mb}),
        "env": {
            **app.env,
            **(tested.get("env") or {}),
            "FLY_TEST_COMMAND": "1",
            "FLY_TEST_MACHINE_IP": private_ip,
            "FLY_PROCESS_GROUP": TEST_GROUP,
        },
        "metadata": {PLATFORM_KEY: PLATFORM, GROUP_KEY: TEST_GROUP},
        "restart": {"policy": "no"},
        "auto_destroy": True,
        "dns": {"skip_registration": True},
        **_given({"guest": dict(tested.get("guest") or {}), "stop_config": _given(stop)}),
    }


def _init(app: AppConfig, group: str, present: Mapping[str, Any]) -> Wire:
    kept = {name: value for name, value in present.items() if name not in _RESET_INIT}
    said = {
        "cmd": list(app.groups.command(group) or app.experimental.cmd),
        "entrypoint": list(app.experimental.entrypoint),
        "exec": list(app.experimental.exec),
        "swap_size_mb": app.swap_size_mb,
    }
    return kept | _given(said)


def _env(app: AppConfig, group: str) -> dict[str, str]:
    region = {"PRIMARY_REGION": app.primary_region} if app.primary_region else {}
    return {**app.env, "FLY_PROCESS_GROUP": group, **region}


def _stop(app: AppConfig) -> Wire:
    timeout = app.kill_timeout
    return _given({"signal": app.kill_signal, "timeout": str(timeout) if timeout is not None else ""})


def _files(app: AppConfig, group: str) -> list[Wire]:
    return [entry.to_wire() for entry in files.of_group(app.files, group)]


def _mounts(app: AppConfig, group: str, present: list[Wire]) -> list[Wire]:
    """A volume that is attached stays so."""
    attached = {mount.get("name"): mount for mount in present}
    mounts = []
    for mount in app.mounts_of(group):
        before = attached.get(mount.source, {})
        mounts.append({**{name: before[name] for name in _MOUNT_KEPT if name in before}, **mount.to_wire()})
    return mounts


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> Wire:
    """As Go decodes JSON onto a value: objects are merged, everything else is replaced."""
    merged = copy.deepcopy(dict(under))
    for name, value in over.items():
        present = merged.get(name)
        if isinstance(present, Mapping) and isinstance(value, Mapping):
            merged[name] = _merged(present, value)
        else:
            merged[name] = copy.deepcopy(value)
    return merged


def _given(wire: Wire) -> Wire:
    return {name: value for name, value in wire.items() if value not in (None, "", [], {}, 0)}
