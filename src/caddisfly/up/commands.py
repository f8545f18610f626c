"""The operator's commands: `up`, `down`, `status`, `settings`, `doctor`, `install`, `run`. `image` is next door.

Thin, and lazy: what a command needs is imported when it runs, so that `caddis --help` stays quick and `caddis run edge`
carries nothing of the others.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from caddisfly.cli import show
from caddisfly.up import images
from caddisfly.up.options import Config, Json


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(doctor)
    app.command("settings")(print_settings)
    app.command("new-token")(new_token)
    app.command()(install)
    app.command()(uninstall)
    app.command(hidden=True)(run)
    images.register(app)


def up(
    config: Config = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when it is up; logs go to files.")] = False,
) -> None:
    """Start the platform on this computer."""
    from caddisfly.up import first_run, start, state
    from caddisfly.up.settings import load

    settings = load(config)
    lock = start.prepare(settings)
    saved = first_run.prepare(settings)
    plan = start.plan(settings, detached=detach)
    if saved:
        show.note(f"first run: made the first user; its token is in {saved}")
    if not detach:
        show.note(
            f"API {state.api_url(settings)}, apps http://<app>.{settings.platform.domain}:"
            f"{state.edge_port(settings)}; Ctrl-C stops it"
        )
        start.foreground(plan, lock)
    start.detached(
        plan, lock, lambda part: show.note(f"{part['part']:<8} ready in {part['took_ms']} ms, pid {part['pid']}")
    )
    show.pairs(
        {
            "API": state.api_url(settings),
            "apps": f"http://<app>.{settings.platform.domain}:{state.edge_port(settings)}",
            "logs": plan.log_dir,
            "next": "`caddis status` shows the parts, `caddis machine run IMAGE` a Machine, `caddis down` stops it all",
        }
    )


def down(
    config: Config = None,
    keep_machines: Annotated[
        bool, typer.Option("--keep-machines", help="Leave Machines running, for an upgrade of the platform.")
    ] = False,
) -> None:
    """Stop the platform on this computer. Machines stop too and come back with the next `caddis up`."""
    from caddisfly.up import stop
    from caddisfly.up.settings import load

    with show.waiting("Stopping"):
        outcome = stop.down(load(config), keep_machines=keep_machines, note=show.note)
    if not outcome.was_running:
        show.line("The platform was not running.")
    elif outcome.parked is None:
        show.line("Stopped. Machines keep running." if keep_machines else "Stopped.")
    else:
        show.line(f"Stopped, with {outcome.parked} running Machine{'s' * (outcome.parked != 1)}.")


def status(
    config: Config = None,
    app: Annotated[str, typer.Option("--app", "-a", help="Show this app instead of the platform.")] = "",
    json: Json = False,
) -> None:
    """Show what runs: the app of --app or of the fly.toml here, else the platform on this computer."""
    from caddisfly.cli import status as of_app
    from caddisfly.cli import target

    name = app or (target.app_of_directory() if config is None else "")
    if name:
        of_app.show_status(name, json=json)
        return
    from caddisfly.up import state
    from caddisfly.up.settings import load

    found = state.platform(load(config))
    if json:
        show.result(found)
    else:
        _print_platform(found)
    if not found["running"]:
        raise typer.Exit(1)


def _print_platform(found: dict[str, Any]) -> None:
    if not found["running"]:
        show.error("the platform is not running", next="caddis up")
        return
    rows = [
        (
            part["name"],
            part["state"],
            part["pid"] or "",
            f"{part['uptime_s']} s",
            part["restarts"],
            f"{part['pss_kb'] / 1024:.1f} MiB",
        )
        for part in found["parts"]
    ]
    show.table(("PART", "STATE", "PID", "UPTIME", "RESTARTS", "MEMORY (PSS)"), rows)
    host = found["host"]
    machines = ", ".join(f"{count} {state}" for state, count in sorted(host["machines"].items())) if host else ""
    show.pairs(
        {
            "memory": f"{found['pss_kb'] / 1024:.1f} MiB PSS in all",
            "API": found["api_url"],
            "edge": f"{', '.join(found['edge_listen'])} for *.{found['apps_domain']}",
            "registry": f"{found['registry']}, which is {found['registry_address']}",
            "logs": found["log_dir"] or "on the terminal of `caddis up`",
        }
    )
    if host:
        offered = zip(host["isolation"] or host["drivers"], host["drivers"], strict=True)
        facts = {
            "host": f"{host['host_id']} in {host['region']}",
            "isolation": ", ".join(f"{isolation} ({driver})" for isolation, driver in offered),
            "firewall": host["facts"].get("firewall", "?"),
        }
        show.pairs({**facts, "machines": machines or "none"})
    else:
        show.note(f"the agent does not answer: {found['host_error']}")


def doctor(config: Config = None, json: Json = False) -> None:
    """Find out, by trying, what this computer can do for Machines."""
    from caddisfly.up import doctor as examination

    checks = examination.examine(config, progress=None if json else show.note)
    if json:
        show.result([check.to_record() for check in checks])
    else:
        show.table(
            ("CHECK", "RESULT", "FOUND", "NEXT"),
            [(check.name, check.result, check.found, check.next) for check in checks],
        )
    if any(check.result == "fail" for check in checks):
        raise typer.Exit(1)


def print_settings(config: Config = None, json: Json = False) -> None:
    """List every setting: its value here, where that comes from, unit, default and reason."""
    from caddisfly.up.catalogue import listing
    from caddisfly.up.settings import load

    rows = listing(load(config))
    if json:
        show.result(rows)
        return
    for row in rows:
        show.line(f"[{row['section']}] {row['key']} = {row['value']}")
        show.line(f"    {row['description']}")
        show.line(f"    default {row['default']}; environment {row['environment']}")


def new_token(config: Config = None) -> None:
    """Replace the admin's token, when it was lost or may be known to others. The old one stops working."""
    from caddisfly.up import first_run
    from caddisfly.up.settings import load

    path = first_run.replace_token(load(config))
    show.line(f"The admin has a new token, kept in {path}; the old one stops working within seconds.")


def install(
    config: Config = None,
    print_only: Annotated[bool, typer.Option("--print", help="Show the units, write nothing.")] = False,
) -> None:
    """Run the parts as systemd units, for production."""
    from caddisfly.up import units
    from caddisfly.up.settings import load

    made = units.units(load(config))
    if print_only:
        for name, text in made.items():
            show.line(f"# /etc/systemd/system/{name}\n{text}")
        return
    for path in units.install(made):
        show.line(f"wrote {path}")
    show.line("Started; `systemctl status 'caddisfly-*'` shows them.")


def uninstall() -> None:
    """Stop and remove the systemd units. Data stays."""
    from caddisfly.up import units

    for path in units.uninstall():
        show.line(f"removed {path}")


def run(
    part: Annotated[str, typer.Argument(help="bus, control, agent, edge or edge@N.")], config: Config = None
) -> None:
    """Be one part of the platform; `caddis up` and systemd call this."""
    from caddisfly.up import parts

    parts.run(part, config=config)
