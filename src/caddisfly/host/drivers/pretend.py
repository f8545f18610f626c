"""What a command would say, had it been run: the few that people try first are answered, the others only succeed."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable

from caddisfly.host.drivers.driver import Command, CommandResult, Sandbox

_SHELLS = ("sh", "bash", "ash", "dash")


async def execute(sandbox: Sandbox, command: Command) -> CommandResult:
    """`sh -c` takes commands joined by `;` and `&&`, without anything else that a shell can do."""
    argv = command.argv
    if is_shell(argv[0]) and len(argv) >= 3 and argv[1] in ("-c", "-lc"):
        return await _shell(sandbox, argv[2], command.stdin)
    return await _one(sandbox, argv, command.stdin)


async def _shell(sandbox: Sandbox, line: str, stdin: bytes) -> CommandResult:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    try:
        tokens = list(lexer)
    except ValueError as error:
        return CommandResult(exit_code=2, stdout=b"", stderr=f"sh: {error}\n".encode())
    code, out, err, skipped = 0, b"", b"", False
    words: list[str] = []
    for token in [*tokens, ";"]:
        if not token or set(token) - set(";&|"):
            words.append(token)
            continue
        if words and not skipped:
            result = await _one(sandbox, tuple(words), stdin)
            code, out, err = result.exit_code, out + result.stdout, err + result.stderr
            if words[0] == "exit":
                break
        skipped = (token == "&&" and code != 0) or (token == "||" and code == 0)
        words = []
    return CommandResult(exit_code=code, stdout=out, stderr=err)


async def _one(sandbox: Sandbox, argv: tuple[str, ...], stdin: bytes) -> CommandResult:
    answer = _ANSWERS.get(name(argv[0]))
    if answer is not None:
        code, text = await answer(sandbox, argv[1:], stdin)
    else:
        code, text = 0, f"caddis dev runs nothing: {shlex.join(argv)}\n".encode()
    return CommandResult(exit_code=code, stdout=text, stderr=b"")


def is_shell(program: str) -> bool:
    return name(program) in _SHELLS


def name(program: str) -> str:
    """Without its directory."""
    return program.rpartition("/")[2]


_Answer = Callable[[Sandbox, tuple[str, ...], bytes], Awaitable[tuple[int, bytes]]]


async def _echo(sandbox: Sandbox, words: tuple[str, ...], stdin: bytes) -> tuple[int, bytes]:
    bare = words[:1] == ("-n",)
    env = dict(entry.partition("=")[::2] for entry in sandbox.env)
    said = [env.get(word[1:], "") if word.startswith("$") else word for word in (words[1:] if bare else words)]
    return 0, (" ".join(said) + ("" if bare else "\n")).encode()


async def _cat(sandbox: Sandbox, words: tuple[str, ...], stdin: bytes) -> tuple[int, bytes]:
    return 0, stdin


async def _env(sandbox: Sandbox, words: tuple[str, ...], stdin: bytes) -> tuple[int, bytes]:
    return 0, "".join(f"{entry}\n" for entry in sandbox.env).encode()


async def _hostname(sandbox: Sandbox, words: tuple[str, ...], stdin: bytes) -> tuple[int, bytes]:
    return 0, f"{sandbox.hostname}\n".encode()


async def _pwd(sandbox: Sandbox, words: tuple[str, ...], stdin: bytes) -> tuple[int, bytes]:
    return 0, f"{sandbox.cwd}\n".encode()


async def _true(sandbox: Sandbox, words: tuple[str, ...], stdin: bytes) -> tuple[int, bytes]:
    return 0, b""


async def _false(sandbox: Sandbox, words: tuple[str, ...], stdin: bytes) -> tuple[int, bytes]:
    return 1, b""


async def _exit(sandbox: Sandbox, words: tuple[str, ...], stdin: bytes) -> tuple[int, bytes]:
    return (int(words[0]) & 255 if words and words[0].isdecimal() else 0), b""


async def _sleep(sandbox: Sandbox, words: tuple[str, ...], stdin: bytes) -> tuple[int, bytes]:
    try:
        seconds = float(words[0])
    except (IndexError, ValueError):
        return 1, b""
    await asyncio.sleep(max(0.0, seconds))
    return 0, b""


_ANSWERS: dict[str, _Answer] = {
    "echo": _echo,
    "cat": _cat,
    "env": _env,
    "printenv": _env,
    "hostname": _hostname,
    "pwd": _pwd,
    "true": _true,
    "false": _false,
    "exit": _exit,
    "sleep": _sleep,
}
