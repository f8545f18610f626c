"""Machines as JSON text, each value encoded once.

flyctl lists all machines of an app, in full, again and again. A `Machine` never changes, a change makes another one,
so its text can be kept beside it: a list of 1,000 then costs a join in place of 45 ms of encoding. What is not the
machine's own, whether its host is up, is put in when it is shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from fastapi import Response

from caddisfly.model.machine import Machine, wall_ms

_MOST_KEPT = 5_000
_HEAVY = ("config", "checks", "events", "image_ref")


class Encoder:
    """`host_status` is asked anew each time a machine is shown."""

    def __init__(self, host_status: Callable[[Machine], str]) -> None:
        self._host_status = host_status
        self._full, self._short = _Texts(left_out=("host_status",)), _Texts(left_out=(*_HEAVY, "host_status"))

    def machine(self, machine: Machine, *, with_nonce: bool = False, with_lease: bool = False) -> Response:
        text = self._with_status(machine)
        if with_nonce and machine.lease is not None:
            text = f'{text[:-1]},"nonce":"{machine.lease.nonce}"}}'
        return _json(_with_lease(text, machine) if with_lease else text)

    def list(self, machines: Iterable[Machine], *, with_lease: bool = False) -> Response:
        texts = ((machine, self._with_status(machine)) for machine in machines)
        return _json(f"[{','.join(_with_lease(text, one) if with_lease else text for one, text in texts)}]")

    def summaries(self, machines: Iterable[Machine], *, with_lease: bool = False) -> Response:
        """Without what is heavy (reference machines-api, M1)."""
        texts = ((machine, self._short.of(machine)) for machine in machines)
        return _json(f"[{','.join(_with_lease(text, one) if with_lease else text for one, text in texts)}]")

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


def _with_lease(text: str, machine: Machine) -> str:
    lease = machine.lease
    if lease is None or lease.expires_ms <= wall_ms():
        return text
    shown = {"owner": lease.owner, "expires_at": lease.expires_ms // 1000, "description": lease.description}
    return f'{text[:-1]},"lease":{json.dumps(shown, ensure_ascii=False)}}}'


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")
