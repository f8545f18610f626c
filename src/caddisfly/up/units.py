"""systemd units for the same parts that `caddis up` runs: production without a supervisor of ours.

systemd is the better parent on a server: it starts at boot, it survives whatever we do, and a part that it runs has
nobody of ours whose death could take it along. The agent is stopped with `KillMode=process`, because everything that a
Machine consists of lives in its control group or below, and must survive an upgrade of the agent. For the same reason
its unit has no sandbox and no OOM score: Machines would inherit both, and lose their loop devices to the first.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from caddisfly.model.errors import FailedPrecondition
from caddisfly.up import parts
from caddisfly.up.settings import Settings

DIRECTORY = Path("/etc/systemd/system")
TARGET = "caddisfly.target"

_UNIT = """\
[Unit]
Description=Caddisfly: {what}
After=network-online.target{after}
Wants=network-online.target
PartOf={target}

[Service]
Type=exec
ExecStart={command}
Restart=always
RestartSec=1
RestartSteps=5
RestartMaxDelaySec=30
TimeoutStopSec={stop_s}
OOMScoreAdjust={oom}
LimitNOFILE=1048576
{runtime}{hardening}
[Install]
WantedBy={target}
"""

_HARDENED = """\
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={data} -{run}
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictNamespaces=yes
LockPersonality=yes
SystemCallArchitectures=native
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX{families}
CapabilityBoundingSet={capabilities}
"""

_AGENT = """\
KillMode=process
Delegate=yes
"""

_TARGET_TEXT = """\
[Unit]
Description=Caddisfly
Wants={wants}

[Install]
WantedBy=multi-user.target
"""


def units(settings: Settings) -> dict[str, str]:
    """Unit texts by file name, in the order in which they should start."""
    made: dict[str, str] = {}
    if settings.own_bus:
        made["caddisfly-bus.service"] = _service(settings, "bus", "the bus", hardening=_hardened(settings))
    made["caddisfly-control.service"] = _service(
        settings, "control", "the API", after=" caddisfly-bus.service", hardening=_hardened(settings)
    )
    made["caddisfly-agent.service"] = _service(
        settings, "agent", "the agent of this host", after=" caddisfly-bus.service", hardening=_AGENT, oom=0
    )
    if settings.own_registry:
        made["caddisfly-registry.service"] = _service(
            settings,
            "registry",
            "the registry",
            after=" caddisfly-bus.service caddisfly-agent.service",
            hardening=_hardened(settings),
        )
    made["caddisfly-edge@.service"] = _service(
        settings,
        "edge@%i",
        "edge worker %i",
        after=" caddisfly-agent.service",
        hardening=_hardened(settings, families=" AF_NETLINK", capabilities="CAP_NET_BIND_SERVICE CAP_DAC_OVERRIDE"),
        stop_s=int(getattr(settings.edge, "drain_timeout_s", 30)) + 5,
    )
    wants = [name for name in made if "@" not in name]
    wants += [f"caddisfly-edge@{number}.service" for number in range(settings.workers)]
    made[TARGET] = _TARGET_TEXT.format(wants=" ".join(wants))
    return made


def install(made: dict[str, str]) -> list[Path]:
    """Write, enable and start. Raises `FailedPrecondition` without systemd, or when it refuses."""
    _need_systemd()
    written = []
    for name, text in made.items():
        path = DIRECTORY / name
        path.write_text(text)
        written.append(path)
    _systemctl("daemon-reload")
    _systemctl("enable", "--now", TARGET)
    return written


def uninstall() -> list[Path]:
    """Stop, disable and remove. Machines keep running. Raises `FailedPrecondition` without systemd."""
    _need_systemd()
    found = sorted(DIRECTORY.glob("caddisfly-*.service"))
    target = DIRECTORY / TARGET
    if target.exists():
        _systemctl("disable", "--now", TARGET)
        _systemctl("stop", "caddisfly-*.service")
        found.append(target)
    for path in found:
        path.unlink()
    _systemctl("daemon-reload")
    return found


def _service(
    settings: Settings, part: str, what: str, *, hardening: str, after: str = "", oom: int = -500, stop_s: int = 30
) -> str:
    command = parts.command(part, settings.source.resolve() if settings.source else None)
    return _UNIT.format(
        what=what,
        after=after,
        target=TARGET,
        command=" ".join(_quoted(word) for word in command),
        stop_s=stop_s,
        oom=oom,
        hardening=hardening,
        runtime=_runtime_directory(settings.platform.run_dir),
    )


def _runtime_directory(path: Path) -> str:
    """Made by systemd at each start, because a reboot empties /run; kept while other parts still use it."""
    if not path.is_relative_to("/run"):
        return ""
    return f"RuntimeDirectory={path.relative_to('/run')}\nRuntimeDirectoryPreserve=yes\n"


def _hardened(settings: Settings, *, families: str = "", capabilities: str = "CAP_DAC_OVERRIDE") -> str:
    platform = settings.platform
    return _HARDENED.format(data=platform.data_dir, run=platform.run_dir, families=families, capabilities=capabilities)


def _quoted(word: str) -> str:
    return word if not set(word) & set(" \"'\\") else '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _need_systemd() -> None:
    if not Path("/run/systemd/system").exists():
        raise FailedPrecondition(
            "this computer is not run by systemd",
            why="there is no /run/systemd/system",
            next="`caddis up --detach` runs the same parts; `caddis install --print` shows the units",
        )


def _systemctl(*words: str) -> None:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedPrecondition(
            f"systemctl {words[0]} failed", why=done.stderr.strip(), next=f"journalctl -xe; python is {sys.executable}"
        )
