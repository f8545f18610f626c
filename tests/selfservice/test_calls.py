"""What a Machine may ask of itself, and that it is refused everything else."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from caddisfly.bus import contract
from caddisfly.host.machines import Machines
from caddisfly.host.records import Records
from caddisfly.host.selfservice.calls import Calls
from caddisfly.host.selfservice.exchange import Answer, Request
from caddisfly.model.config import Config
from caddisfly.model.errors import Aborted, NotFound
from caddisfly.model.machine import Machine
from tests.journal.test_journal import a_machine


class Handlers:
    """Stands for the handlers of the bus: what reaches them."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, contract.MachineCall]] = []
        self.error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        async def handle(call: contract.MachineCall) -> None:
            self.seen.append((name, call))
            if self.error is not None:
                raise self.error

        return handle


class Asker:
    """A program in a Machine."""

    def __init__(self) -> None:
        self.handlers = Handlers()
        config = Config.parse({"image": "nginx", "metadata": {"role": "web"}})
        self.machine = a_machine(state="started", config=config)
        calls = Calls(cast(Machines, self.handlers), cast(Records, self.handlers), show=self._show)
        self._calls = calls

    def _show(self, machine_id: str) -> Machine:
        if machine_id != self.machine.id:
            raise NotFound("machine not found")
        return self.machine

    async def ask(self, method: str, path: str, body: object = None, *, nonce: str = "") -> Answer:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        path = path.replace("SELF", f"v1/apps/demo/machines/{self.machine.id}")
        request = Request(method, tuple(path.strip("/").split("/")), nonce, bytearray(data))
        return await self._calls.answer(self.machine.id, request)


@pytest.fixture
def asker() -> Asker:
    return Asker()


async def test_it_sees_itself(asker: Asker) -> None:
    assert await asker.ask("GET", "/SELF") == Answer(200, asker.machine.to_wire())
    assert await asker.ask("GET", "/SELF/metadata") == Answer(200, {"role": "web"})
    assert await asker.ask("GET", "/SELF/metadata/role") == Answer(200, {"value": "web"})
    assert (await asker.ask("GET", "/SELF/metadata/other")).status == 404
    assert asker.handlers.seen == []


async def test_it_stops_and_suspends_itself(asker: Asker) -> None:
    id = asker.machine.id
    assert await asker.ask("POST", "/SELF/stop") == Answer(200, {"ok": True})
    assert (await asker.ask("POST", "/SELF/stop", {"signal": "SIGTERM", "timeout": "30s"}, nonce="n")).status == 200
    assert (await asker.ask("POST", "/SELF/suspend", nonce="n")).status == 200
    assert asker.handlers.seen == [
        ("stop", contract.StopMachine(machine_id=id)),
        ("stop", contract.StopMachine(machine_id=id, nonce="n", signal="SIGTERM", timeout_s=30)),
        ("suspend", contract.MachineCall(machine_id=id, nonce="n")),
    ]


async def test_it_changes_its_metadata(asker: Asker) -> None:
    assert await asker.ask("POST", "/SELF/metadata/a", {"value": "b", "updated_at": "now"}) == Answer(204)
    assert await asker.ask("DELETE", "/SELF/metadata/a") == Answer(204)
    patch = {"metadata": {"a": None, "b": ""}, "machine_version": "v"}
    assert await asker.ask("PATCH", "/SELF/metadata", patch) == Answer(204)
    made = [(name, call.model_dump(include={"metadata", "machine_version"})) for name, call in asker.handlers.seen]
    assert made == [
        ("set_metadata", {"metadata": {"a": "b"}, "machine_version": ""}),
        ("set_metadata", {"metadata": {"a": None}, "machine_version": ""}),
        ("set_metadata", {"metadata": {"a": None, "b": ""}, "machine_version": "v"}),
    ]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1/apps"),
        ("GET", "/v1/apps/demo/machines"),
        ("POST", "/v1/apps/demo/machines"),
        ("GET", "/v1/apps/demo/machines/0123456789abcd"),
        ("POST", "/v1/apps/demo/machines/0123456789abcd/stop"),
        ("GET", "/v1/apps/other/machines/OWN"),
        ("POST", "/SELF"),
        ("DELETE", "/SELF"),
        ("POST", "/SELF/start"),
        ("POST", "/SELF/exec"),
        ("GET", "/SELF/stop"),
        ("GET", "/SELF/../0123456789abcd"),
        ("POST", "/SELF/metadata/a/b"),
        ("POST", "/v1/tokens/oidc"),
    ],
)
async def test_everything_else_is_refused(asker: Asker, method: str, path: str) -> None:
    answer = await asker.ask(method, path.replace("OWN", asker.machine.id))
    assert answer.status == 403
    assert asker.handlers.seen == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("stop", b"{"),
        ("stop", b"[" * 60_000),
        ("stop", []),
        ("stop", {"signal": "SIGFOO"}),
        ("stop", {"signal": 9}),
        ("stop", {"timeout": "301s"}),
        ("stop", {"timeout": [1]}),
        ("metadata/a", {"value": 1}),
        ("metadata/a", {"value": "x" * 5000}),
        ("metadata/a", {"value": "\ud800"}),
        ("metadata/a", {"value": "\0"}),
        ("metadata/" + "k" * 300, {"value": "x"}),
    ],
)
async def test_wrong_bodies_are_told_so(asker: Asker, path: str, body: object) -> None:
    answer = await asker.ask("POST", f"/SELF/{path}", body)
    assert answer.status == 400
    assert str(cast(dict[str, str], answer.value)["error"]).startswith("invalid_argument: ")
    assert asker.handlers.seen == []


async def test_what_the_handlers_refuse_and_their_bugs_are_answers(
    asker: Asker, caplog: pytest.LogCaptureFixture
) -> None:
    asker.handlers.error = Aborted("machine ID x lease currently held by y")
    assert await asker.ask("POST", "/SELF/stop") == Answer(
        409, {"error": "aborted: machine ID x lease currently held by y"}
    )
    asker.handlers.error = RuntimeError("secret")
    answer = await asker.ask("POST", "/SELF/stop")
    assert (answer.status, "secret" in str(answer.value)) == (500, False)
    assert "selfservice.bug" in caplog.text


async def test_a_machine_that_is_no_longer_there_is_not_found(asker: Asker) -> None:
    answer = await asker._calls.answer("0123456789abcd", Request("GET", ("v1",)))
    assert answer.status == 404
