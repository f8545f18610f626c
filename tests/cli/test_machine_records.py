"""Events, versions, processes, leases, metadata, cordon, suspend and wait, as a user sees them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.cli.machines import ID, MACHINE, MACHINES, Caddis, event, exited, machine
from tests.client.conftest import Api

LEASE = f"{MACHINE}/lease"
NO_LEASE = (404, {"error": f"not_found: machine ID {ID} lease not found"})


def there(api: Api, **changes: Any) -> None:
    api.on("GET", MACHINE, (200, machine(**changes)))


def lease(**more: Any) -> tuple[int, Any]:
    data = {"owner": "a@b", "expires_at": int(time.time()) + 90, "description": "move", "nonce": "", **more}
    return 200, {"status": "success", "data": data}


def test_events(api: Api, caddis: Caddis) -> None:
    there(api)
    found = [exited(137, oom_killed=True), event("update", "failed", "flyd", request={"error": "no such image"})]
    api.on("GET", f"{MACHINE}/events", (200, found))
    outcome = caddis("machine", "events", ID, "-a", "hello", "--limit", "7")
    _, first, second = outcome.out.splitlines()
    assert first.split("\t")[1:] == ["exit", "stopped", "flyd", "exit code 137, out of memory"]
    assert second.split("\t")[1:] == ["update", "failed", "flyd", "no such image"]
    assert api.asked(f"{MACHINE}/events")[0].query == {"limit": "7"}
    assert caddis("machine", "events", ID, "-a", "hello", "--json").json == found


def test_events_of_too_many(api: Api, caddis: Caddis) -> None:
    assert caddis("machine", "events", ID, "-a", "hello", "--limit", "51").code == 2
    assert not api.seen


def test_versions_say_what_each_changed(api: Api, caddis: Caddis) -> None:
    there(api)
    found = [
        {"version": "01HEPA", "user_config": {"image": "hello:2", "env": {"A": "1"}}},
        {"version": "01HEP0", "user_config": {"image": "hello:1", "env": {"A": "1", "B": "2"}}},
    ]
    api.on("GET", f"{MACHINE}/versions", (200, found))
    _, now, before = caddis("machine", "versions", ID, "-a", "hello").out.splitlines()
    assert now.split("\t") == ["01HEPA", "yes", "hello:2", "- env.B: 2, ~ image: hello:1 -> hello:2"]
    assert before.split("\t") == ["01HEP0", "", "hello:1", ""]
    assert caddis("machine", "versions", ID, "-a", "hello", "-j").json == found


def test_ps(api: Api, caddis: Caddis) -> None:
    there(api)
    sockets = [{"proto": "tcp", "address": "[::]:8080"}]
    process = {"pid": 1, "cpu": 3, "rss": 3 * 2**20, "command": "/bin/serve -v", "listen_sockets": sockets}
    api.on("GET", f"{MACHINE}/ps", (200, [process]))
    outcome = caddis("machine", "ps", ID, "-a", "hello", "--sort-by", "rss", "--order", "desc")
    assert outcome.out.splitlines()[1].split("\t") == ["1", "3.0", "3", "tcp:[::]:8080", "/bin/serve -v"]
    assert api.asked(f"{MACHINE}/ps")[0].query == {"sort_by": "rss", "order": "desc"}
    assert caddis("machine", "ps", ID, "-a", "hello", "--json").json == [process]


def test_ps_of_what_does_not_run(api: Api, caddis: Caddis) -> None:
    there(api, state="stopped")
    api.on("GET", f"{MACHINE}/ps", (412, {"error": "failed_precondition: machine not running"}))
    outcome = caddis("machine", "ps", ID, "-a", "hello")
    assert (outcome.code, outcome.out) == (1, "")
    assert "not running" in outcome.err


@pytest.mark.parametrize("words", [["--sort-by", "colour"], ["--order", "up"]])
def test_ps_in_no_order(api: Api, caddis: Caddis, words: list[str]) -> None:
    outcome = caddis("machine", "ps", ID, "-a", "hello", *words)
    assert outcome.code == 2
    assert words[0] in outcome.err
    assert not api.seen


@pytest.mark.parametrize("command", ["cordon", "uncordon"])
def test_cordon_and_back(api: Api, caddis: Caddis, command: str) -> None:
    there(api)
    api.on("POST", f"{MACHINE}/{command}", (200, {"ok": True}))
    assert caddis("machine", command, ID, "-a", "hello").out == f"{ID} {command}ed\n"
    assert caddis("machine", command, ID, "-a", "hello", "--json").json[0]["result"] == f"{command}ed"


def test_suspend_waits(api: Api, caddis: Caddis) -> None:
    there(api)
    api.on("POST", f"{MACHINE}/suspend", (200, {"ok": True}))
    api.on("GET", f"{MACHINE}/wait", (200, {"ok": True}))
    api.on("GET", MACHINE, (200, {"id": ID, "state": "suspended"}))
    assert caddis("machine", "suspend", ID, "-a", "hello").out == f"{ID} suspended\n"
    assert api.asked(f"{MACHINE}/wait")[0].query["state"] == "settled"
    assert caddis("machine", "suspend", ID, "-a", "hello", "--no-wait").code == 0
    assert len(api.asked(f"{MACHINE}/wait")) == 1


def test_a_suspend_that_ended_in_a_stop_says_so(api: Api, caddis: Caddis) -> None:
    there(api)
    api.on("POST", f"{MACHINE}/suspend", (200, {"ok": True}))
    api.on("GET", f"{MACHINE}/wait", (200, {"ok": True}))
    api.on("GET", MACHINE, (200, {"id": ID, "state": "stopped"}))
    outcome = caddis("machine", "suspend", ID, "-a", "hello")
    assert outcome.code == 1
    assert f"{ID} was not suspended: it is stopped" in outcome.err
    assert "caddis machine why" in outcome.err


def test_a_suspend_that_is_refused_says_what_to_do(api: Api, caddis: Caddis) -> None:
    there(api)
    refusal = {"error": "failed_precondition: unable to suspend machine", "why": "no snapshots", "next": "stop it"}
    api.on("POST", f"{MACHINE}/suspend", (412, refusal))
    outcome = caddis("machine", "suspend", ID, "-a", "hello")
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1] == "Next:  stop it"
    assert not api.asked(f"{MACHINE}/wait")


class TestWait:
    def test_until_it_has_settled(self, api: Api, caddis: Caddis) -> None:
        there(api, state="stopped")
        api.on("GET", f"{MACHINE}/wait", (200, {"ok": True}))
        assert caddis("machine", "wait", ID, "-a", "hello").out == f"{ID} stopped\n"
        assert api.asked(f"{MACHINE}/wait")[0].query == {"state": "settled", "timeout": "60"}

    def test_for_any_of_several(self, api: Api, caddis: Caddis) -> None:
        there(api)
        api.on("GET", f"{MACHINE}/wait", (200, {"ok": True, "state": "failed"}))
        outcome = caddis("machine", "wait", ID, "-a", "hello", "--state", "started", "--state", "failed", "-w", "9")
        assert outcome.out == f"{ID} failed\n"
        assert api.asked(f"{MACHINE}/wait")[0].query == {"state": "started,failed", "timeout": "9"}
        assert caddis("machine", "wait", ID, "-a", "hello", "--json").json["state"] == "failed"

    def test_in_vain(self, api: Api, caddis: Caddis) -> None:
        there(api)
        api.on("GET", f"{MACHINE}/wait", (408, {"error": "deadline_exceeded: currently starting"}))
        outcome = caddis("machine", "wait", ID, "-a", "hello", "-w", "10ms")
        assert outcome.code == 1
        assert outcome.err.splitlines()[-3:] == [
            f"Error: {ID} did not get there in 10ms",
            "Why:   deadline_exceeded: currently starting",
            f"Next:  caddis machine why {ID} -a hello",
        ]

    def test_for_the_end_of_what_has_gone_meanwhile(self, api: Api, caddis: Caddis) -> None:
        there(api)
        assert caddis("machine", "wait", ID, "-a", "hello", "--state", "destroyed").out == f"{ID} destroyed\n"
        assert caddis("machine", "wait", ID, "-a", "hello", "--state", "started").code == 1

    @pytest.mark.parametrize("words", [["--state", "happy"], ["--state", ""], ["-w", "soon"]])
    def test_for_nonsense(self, api: Api, caddis: Caddis, words: list[str]) -> None:
        outcome = caddis("machine", "wait", ID, "-a", "hello", *words)
        assert outcome.code == 2
        assert not api.seen


class TestLeases:
    def test_of_all_machines_of_an_app(self, api: Api, caddis: Caddis) -> None:
        held = lease()[1]["data"]
        api.on("GET", MACHINES, (200, [machine(lease=held), machine(id="9080")]))
        _, first, second = caddis("machine", "leases", "view", "-a", "hello").out.splitlines()
        assert first.split("\t")[:2] == [ID, "a@b"]
        assert first.split("\t")[3] == "move"
        assert second.split("\t")[:2] == ["9080", "none"]
        assert api.seen[0].query == {"include_leases": "true"}

    def test_of_one(self, api: Api, caddis: Caddis) -> None:
        there(api)
        api.on("GET", LEASE, lease())
        assert caddis("machine", "leases", "view", ID, "-a", "hello", "--json").json[0]["lease"]["owner"] == "a@b"

    def test_of_one_that_is_free(self, api: Api, caddis: Caddis) -> None:
        there(api)
        api.on("GET", LEASE, NO_LEASE)
        outcome = caddis("machine", "leases", "view", ID, "-a", "hello")
        assert outcome.code == 0
        assert outcome.out.splitlines()[1].split("\t")[1] == "none"

    def test_clear_sends_the_nonce_that_the_api_tells(self, api: Api, caddis: Caddis) -> None:
        there(api)
        api.on("GET", LEASE, lease(nonce="n0nce"))
        api.on("DELETE", LEASE, (200, {"status": "success", "data": {"ok": True}}))
        assert caddis("machine", "leases", "clear", ID, "-a", "hello").out == f"{ID} cleared\n"
        assert api.asked(LEASE)[-1].headers["fly-machine-lease-nonce"] == "n0nce"

    def test_clear_without_the_nonce_is_told(self, api: Api, caddis: Caddis) -> None:
        there(api)
        api.on("GET", LEASE, lease())
        api.on("DELETE", LEASE, (200, {"status": "success", "data": {"ok": True}}))
        outcome = caddis("machine", "leases", "clear", ID, "-a", "hello")
        assert (outcome.code, outcome.out) == (1, "")
        assert "its holder, a@b" in outcome.err
        assert [request.method for request in api.asked(LEASE)] == ["GET"]
        assert caddis("machine", "leases", "clear", ID, "-a", "hello", "--nonce", "n0nce").code == 0

    def test_clear_of_what_is_free(self, api: Api, caddis: Caddis) -> None:
        there(api)
        api.on("GET", LEASE, NO_LEASE)
        assert caddis("machine", "leases", "clear", ID, "-a", "hello", "--json").json[0]["result"] == "no lease"

    def test_which_machines(self, caddis: Caddis) -> None:
        assert caddis("machine", "leases", "view").code == 2
        assert caddis("machine", "leases", "clear", "-a", "hello").code == 2


class TestMetadata:
    def test_show(self, api: Api, caddis: Caddis) -> None:
        there(api)
        api.on("GET", f"{MACHINE}/metadata", (200, {"zone": "a", "role": "web"}))
        assert caddis("machine", "metadata", "show", ID, "-a", "hello").out == "NAME\tVALUE\nrole\tweb\nzone\ta\n"
        assert caddis("machine", "metadata", "show", ID, "role", "-a", "hello").out == "web\n"
        assert caddis("machine", "metadata", "show", ID, "-a", "hello", "--json").json == {"zone": "a", "role": "web"}

    def test_show_what_is_not_there(self, api: Api, caddis: Caddis) -> None:
        there(api)
        api.on("GET", f"{MACHINE}/metadata", (200, {}))
        outcome = caddis("machine", "metadata", "show", ID, "role", "-a", "hello")
        assert (outcome.code, outcome.out) == (1, "")
        assert "no metadata 'role'" in outcome.err

    def test_set_and_remove(self, api: Api, caddis: Caddis) -> None:
        there(api)
        api.on("PATCH", f"{MACHINE}/metadata", (204, None))
        outcome = caddis("machine", "metadata", "set", ID, "role=web", "url=a=b", "-a", "hello")
        assert outcome.out == f"{ID} role set\n{ID} url set\n"
        assert caddis("machine", "metadata", "remove", ID, "role", "-a", "hello").out == f"{ID} role removed\n"
        bodies = [request.body["metadata"] for request in api.asked(f"{MACHINE}/metadata")]
        assert bodies == [{"role": "web", "url": "a=b"}, {"role": None}]

    @pytest.mark.parametrize("words", [["role"], ["role="], ["=web"], []])
    def test_set_nonsense(self, api: Api, caddis: Caddis, words: list[str]) -> None:
        assert caddis("machine", "metadata", "set", ID, *words, "-a", "hello").code == 2
        assert not api.seen


@pytest.mark.parametrize(
    "words",
    [["events"], ["versions"], ["ps"], ["wait"], ["why"], ["cordon"], ["suspend"], ["clone"], ["update", "-e", "A=1"]],
)
def test_an_unknown_machine(api: Api, caddis: Caddis, words: list[str]) -> None:
    outcome = caddis("machine", words[0], ID, "-a", "hello", *words[1:])
    assert outcome.code == 1
    assert outcome.err == f"Error: no Machine {ID} in app hello\nNext:  caddis machine list -a hello\n"
    assert [request.method for request in api.seen] == ["GET"]
