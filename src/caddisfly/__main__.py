"""The `caddis` program: the one place that knows both the laptop's commands and the operator's."""

from __future__ import annotations

import importlib
import importlib.util
import sys


def main() -> None:
    if sys.argv[1:2] == ["run"] and "--help" not in sys.argv:
        from caddisfly.up.run import main as run

        run(sys.argv[2:])
        return
    from caddisfly.cli import app
    from caddisfly.dev import commands as dev_commands
    from caddisfly.up import commands

    program = app.build()
    commands.register(program)
    dev_commands.register(program)
    if importlib.util.find_spec("caddisfly.bench.commands"):
        importlib.import_module("caddisfly.bench.commands").register(program)
    app.run(program)


if __name__ == "__main__":
    main()
