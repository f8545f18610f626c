"""The Typer program and its one door for errors: exit code 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import os
import re
import sys

import typer

from caddisfly.cli import show
from caddisfly.cli.group import group


def build() -> typer.Typer:
    """The laptop's commands. The composition root adds the operator's."""
    from caddisfly.cli import (
        apps,
        auth,
        build,
        checks,
        config,
        console,
        deploy,
        detect,
        image,
        launch,
        logs,
        machine,
        opening,
        releases,
        rollback,
        scale,
        secrets,
        ssh,
        tokens,
    )

    program = group("Fly.io's platform in a house of your own.")
    program.add_typer(machine.build(), name="machine")
    program.add_typer(machine.build(), name="machines", hidden=True)
    program.add_typer(machine.build(), name="m", hidden=True)
    program.add_typer(apps.build(), name="apps")
    program.command("build")(build.build)
    program.command("deploy")(deploy.deploy)
    program.command("rollback")(rollback.rollback)
    program.add_typer(config.build(), name="config")
    program.command("logs")(logs.logs)
    program.command("detect")(detect.detect)
    program.command("launch")(launch.launch)
    program.add_typer(checks.build(), name="checks")
    program.add_typer(image.build(), name="image")
    program.command("open")(opening.open_)
    program.command("releases")(releases.releases)
    program.add_typer(ssh.build(), name="ssh")
    program.command("console")(console.console)
    program.add_typer(scale.build(), name="scale")
    program.add_typer(auth.build(), name="auth")
    program.add_typer(secrets.build(), name="secrets")
    program.add_typer(tokens.build(), name="tokens")
    program.command("version")(version)
    return program


def version() -> None:
    """Print the version."""
    import caddisfly

    show.line(f"caddis {caddisfly.__version__}")


_SWITCHES = re.compile(r"--(ha|smoke-checks|rollback|detach|yes|now)=(true|false)")
_ON_ONLY = ("detach", "yes", "now")


def _flags(words: list[str]) -> list[str]:
    """What stands after `--` is somebody else's, such as a command's in a Machine."""
    end = words.index("--") if "--" in words else len(words)
    return [*map(_flag, words[:end]), *words[end:]]


def _flag(word: str) -> str:
    """`--ha=false`, as Fly's users write it, is `--no-ha`."""
    said = _SWITCHES.fullmatch(word)
    if said is None or (said[2] == "false" and said[1] in _ON_ONLY):
        return word
    return f"--{said[1]}" if said[2] == "true" else f"--no-{said[1]}"


def run(program: typer.Typer) -> None:
    """Run it and leave the process with its exit code."""
    sys.exit(guarded(program))


def guarded(program: typer.Typer) -> int:
    """Errors of ours in three lines; a bug in one, unless CADDIS_DEBUG is set."""
    from caddisfly.model.errors import InvalidArgument, Problem, Unprocessable

    sys.argv[1:] = _flags(sys.argv[1:])
    try:
        program()
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
        return 1
    except Problem as problem:
        show.error(problem.what, why=_whole(problem.why, problem), next=problem.next)
        return 2 if isinstance(problem, InvalidArgument | Unprocessable) else 1
    except Exception as error:
        if os.environ.get("CADDIS_DEBUG"):
            raise
        from caddisfly.client.errors import ApiError

        if isinstance(error, ApiError):
            show.error(error.text, why=_whole(error.why, error), next=error.next)
            return 1
        show.error(
            "this is a bug in caddis",
            why=f"{type(error).__name__}: {error}",
            next="run it again with CADDIS_DEBUG=1 and report what it prints",
        )
        return 1
    return 0


def _whole(why: str, error: Exception) -> str:
    """With what else went wrong on the way."""
    return "\n".join(part for part in (why, *getattr(error, "__notes__", ())) if part)
