"""Machines as JSON text, each value encoded once.

flyctl lists all machines of an app, in full, again and again. A `Machine` never changes, a change makes another one,
so its text can be kept beside it: a list of 1,000 then costs a join in place of 45 ms of encoding. What is not the
machine's own, whether its host is up, is put in when it is shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from fastapi import Response

from caddisfly.model.machine import Machine

_MOST_KEPT = 5_000
_HEAVY = ("config", "checks", "events", "image_ref")


class Encoder:
    """`host_status` is asked anew each time a machine is shown."""

    def __init__(self, host_status: Callable[[Machine], str]) -> None:
        self._host_status = host_status
        self._full, self._short = _Texts(left_out=("host_status",)), _Texts(left_out=(*_HEAVY, "host_status"))

    def machine(self, machine: Machine) -> Response:
        return _json(self._with_status(machine))

    def list(self, machines: Iterable[Machine]) -> Response:
        return _json(f"[{','.join(map(self._with_status, machines))}]")

    def summaries(self, machines: Iterable[Machine]) -> Response:
        """Without what is heavy (reference machines-api, M1)."""
        return _json(f"[{','.join(map(self._short.of, machines))}]")

    def _with_status(self, machine: Machine) -> str:
        return f'{self._full.of(machine)[:-1]},"host_status":"{self._host_status(machine)}"}}'


class _Texts:
    """The texts of the machines shown last, about 1 KB each."""

    def __init__(self, *, left_out: tuple[str, ...]) -> None:
        self._left_out = left_out
        self._kept: dict[str, tuple[Machine, str]] = {}

    def of(self, machine: Machine) -> str:
        kept = self._kept.get(machine.id)
        if kept is None or kept[0] is not machine:
            wire = {name: value for name, value in machine.to_wire().items() if name not in self._left_out}
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            text = json.dumps(wire, separators=(",", ":"), ensure_ascii=False)
            kept = self._kept[machine.id] = (machine, text)
        return kept[1]


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")
