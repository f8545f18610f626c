"""`caddis machine create`, `update` and `clone`: what they send, under which Lease, what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.machines import ID, MACHINE, MACHINES, Caddis, event, exited, machine
from tests.client.conftest import Api

NONCE = "fly-machine-lease-nonce"
CONFIG: dict[str, Any] = {
    "image": "hello",
    "env": {"A": "1", "B": "2"},
    "metadata": {"role": "web"},
    "guest": {"cpus": 1, "cpu_kind": "shared", "memory_mb": 256},
    "services": [{"protocol": "tcp", "internal_port": 8080, "ports": [{"port": 80, "handlers": ["http"]}]}],
    "checks": {"alive": {"type": "tcp", "port": 8080}},
}


def serve(api: Api, *states: dict[str, Any], after: dict[str, Any] | None = None) -> None:
    """`states` are what each GET finds, the last for ever."""
    api.on("GET", MACHINE, *((200, state) for state in states or (machine(config=CONFIG),)))
    api.on("POST", f"{MACHINE}/lease", (201, {"status": "success", "data": {"nonce": "n0nce"}}))
    api.on("DELETE", f"{MACHINE}/lease", (200, {"status": "success", "data": {"ok": True}}))
    api.on("POST", MACHINE, (200, after or machine(state="replacing", instance_id="01HNEW")))
    api.on("GET", f"{MACHINE}/wait", (200, {"ok": True}))
    api.on("GET", "/api/v1/apps/hello/logs", (200, {"data": [{"attributes": {"message": "no database"}}], "meta": {}}))


def sent(api: Api) -> dict[str, Any]:
    (update,) = (request for request in api.asked(MACHINE) if request.method == "POST")
    return dict(update.body["config"])


def order(api: Api) -> list[str]:
    return [f"{request.method} {request.path.removeprefix(MACHINE)}" for request in api.seen]


def test_create_makes_and_does_not_start(api: Api, caddis: Caddis) -> None:
    api.on("POST", MACHINES, (200, machine(state="created")))
    outcome = caddis("machine", "create", "hello", "-a", "hello", "-e", "A=1", "--vm-memory", "512", "--", "serve")
    assert outcome.code == 0, outcome.err
    assert "created" in outcome.out
    (request,) = api.seen
    assert request.body["skip_launch"] is True
    assert request.body["config"]["env"] == {"A": "1"}
    assert request.body["config"]["init"] == {"cmd": ["serve"]}


def test_create_with_wrong_flags_asks_nothing(api: Api, caddis: Caddis) -> None:
    assert caddis("machine", "create", "hello", "-a", "hello", "-p", "eighty").code == 2
    assert caddis("machine", "create", "hello", "-a", "hello", "--detach").code == 2
    assert not api.seen


def test_update_merges_by_name_and_keeps_the_rest(api: Api, caddis: Caddis) -> None:
    serve(api)
    words = "-e B=3 -e C=4 -m zone=a --vm-memory 1gb --image hello:2 -p 443:8080/tcp:tls:http --restart always".split()
    outcome = caddis("machine", "update", ID, "-a", "hello", "--yes", *words, "--command", "serve 'a b'")
    assert outcome.code == 0, outcome.err
    service = CONFIG["services"][0]
    assert sent(api) == {
        **CONFIG,
        "image": "hello:2",
        "env": {"A": "1", "B": "3", "C": "4"},
        "metadata": {"role": "web", "zone": "a"},
        "guest": {"cpus": 1, "cpu_kind": "shared", "memory_mb": 1024},
        "services": [{**service, "ports": [*service["ports"], {"port": 443, "handlers": ["tls", "http"]}]}],
        "restart": {"policy": "always"},
        "init": {"cmd": ["serve", "a b"]},
    }


def test_update_shows_what_changes(api: Api, caddis: Caddis) -> None:
    serve(api)
    outcome = caddis("machine", "update", ID, "-a", "hello", "--yes", "-e", "B=3", "-e", "C=4", "--image", "hello:2")
    assert outcome.err.splitlines()[:3] == ["  ~ env.B: 2 -> 3", "  + env.C: 4", "  ~ image: hello -> hello:2"]


def test_update_reads_and_writes_under_a_lease_and_gives_it_back(api: Api, caddis: Caddis) -> None:
    serve(api, machine(config=CONFIG, cordoned=True))
    assert caddis("machine", "update", ID, "-a", "hello", "--yes", "-e", "B=3").code == 0
    assert order(api) == ["GET ", "POST /lease", "GET ", "POST ", "DELETE /lease", "GET /wait", "GET "]
    update, release = api.seen[3], api.seen[4]
    assert update.headers[NONCE] == release.headers[NONCE] == "n0nce"
    assert update.body["current_version"] == "01HEPA"
    assert update.body["skip_service_registration"] is True  # or it would get traffic again
    assert "skip_launch" not in update.body


def test_update_gives_the_lease_back_when_it_is_refused(api: Api, caddis: Caddis) -> None:
    serve(api)
    api.on("POST", MACHINE, (409, {"error": "aborted: insufficient CPUs"}))
    outcome = caddis("machine", "update", ID, "-a", "hello", "--yes", "-e", "B=3")
    assert (outcome.code, outcome.out) == (1, "")
    assert "insufficient CPUs" in outcome.err
    assert order(api)[-1] == "DELETE /lease"


def test_update_of_what_somebody_else_holds(api: Api, caddis: Caddis) -> None:
    serve(api)
    api.on("POST", f"{MACHINE}/lease", (409, {"status": "error", "message": "lease currently held by a@b, expires at"}))
    outcome = caddis("machine", "update", ID, "-a", "hello", "--yes", "-e", "B=3")
    assert outcome.code == 1
    assert "held by a@b" in outcome.err
    assert "caddis machine leases view" in outcome.err
    assert order(api) == ["GET ", "POST /lease"]


def test_update_asks_first_and_holds_no_lease_while_it_does(api: Api, caddis: Caddis) -> None:
    serve(api)
    outcome = caddis("machine", "update", ID, "-a", "hello", "-e", "B=3", stdin="n\n")
    assert outcome.code == 1
    assert order(api) == ["GET "]
    assert caddis("machine", "update", ID, "-a", "hello", "-e", "B=3", stdin="y\n").code == 0
    assert sent(api)["env"]["B"] == "3"


def test_update_does_not_undo_what_changed_while_it_asked(api: Api, caddis: Caddis) -> None:
    meanwhile = machine(config={**CONFIG, "env": {"B": "9"}})
    serve(api, machine(config=CONFIG), meanwhile)
    outcome = caddis("machine", "update", ID, "-a", "hello", "-e", "B=3", stdin="y\n")
    assert outcome.code == 1
    assert "not what you were shown" in outcome.err
    assert order(api) == ["GET ", "POST /lease", "GET ", "DELETE /lease"]


def test_update_without_asking_goes_on_from_what_is_there_now(api: Api, caddis: Caddis) -> None:
    serve(api, machine(config=CONFIG), machine(config={**CONFIG, "env": {"B": "9", "D": "5"}}))
    outcome = caddis("machine", "update", ID, "-a", "hello", "-y", "-e", "B=3")
    assert outcome.code == 0
    assert sent(api)["env"] == {"B": "3", "D": "5"}
    assert "~ env.B: 9 -> 3" in outcome.err


def test_update_to_what_it_is_already_restarts_nothing(api: Api, caddis: Caddis) -> None:
    serve(api)
    outcome = caddis("machine", "update", ID, "-a", "hello", "-e", "B=2", "--image", "hello", "--json")
    assert outcome.code == 0
    assert "Nothing to change" in outcome.err
    assert outcome.json["id"] == ID
    assert order(api) == ["GET "]


def test_update_with_skip_start(api: Api, caddis: Caddis) -> None:
    serve(api, machine(config=CONFIG), machine(config=CONFIG), machine(config=CONFIG, state="stopped"))
    outcome = caddis("machine", "update", ID, "-a", "hello", "-y", "-e", "B=3", "--skip-start")
    assert outcome.code == 0
    assert api.asked(f"{MACHINE}/wait")[0].query["state"] == "settled"
    assert f"{ID} is stopped" in outcome.err
    (update,) = (request for request in api.asked(MACHINE) if request.method == "POST")
    assert update.body["skip_launch"] is True


def test_update_of_a_stopped_machine_is_no_failure_whatever_its_last_exit(api: Api, caddis: Caddis) -> None:
    serve(api, machine(config=CONFIG, state="stopped", events=[exited(1)]))
    assert caddis("machine", "update", ID, "-a", "hello", "-y", "-e", "B=3").code == 0


def test_update_says_that_the_new_version_does_not_stay_up(api: Api, caddis: Caddis) -> None:
    serve(api, machine(config=CONFIG), machine(config=CONFIG), machine(state="stopped", events=[exited(3)]))
    outcome = caddis("machine", "update", ID, "-a", "hello", "-y", "-e", "B=3")
    assert outcome.code == 1
    assert "exit code 3" in outcome.err
    assert "no database" in outcome.err


def test_update_says_that_it_was_undone(api: Api, caddis: Caddis) -> None:
    undone = machine(events=[event("update", "failed", "flyd", request={"error": "manifest unknown"})])
    serve(api, machine(config=CONFIG), machine(config=CONFIG), undone)
    outcome = caddis("machine", "update", ID, "-a", "hello", "-y", "--image", "nonsense")
    assert outcome.code == 1
    assert "as it was before" in outcome.err
    assert "manifest unknown" in outcome.err


def test_update_detached_does_not_wait(api: Api, caddis: Caddis) -> None:
    serve(api)
    assert (
        caddis("machine", "update", ID, "-a", "hello", "-y", "-e", "B=3", "-d", "--json").json["state"] == "replacing"
    )
    assert not api.asked(f"{MACHINE}/wait")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to change"),
        (["-e", "NOVALUE"], "--env 'NOVALUE'"),
        (["-p", "0:8080"], "0 is not a port"),
        (["--vm-memory", "lots"], "--vm-memory"),
        (["--vm-cpus", "3"], "config.guest.cpus"),
        (["--command", "it's"], "--command"),
        (["--restart", "maybe"], "--restart"),
        (["--autostop", "maybe"], "--autostop"),
    ],
)
def test_update_with_wrong_flags_changes_nothing(api: Api, caddis: Caddis, words: list[str], said: str) -> None:
    serve(api)
    outcome = caddis("machine", "update", ID, "-a", "hello", "-y", *words)
    assert outcome.code == 2
    assert said in outcome.err
    assert all(request.method == "GET" for request in api.seen)


@pytest.mark.parametrize("changes", [{"host_status": "unreachable"}, {"config": None}])
@pytest.mark.parametrize("command", [["update", "-y", "-e", "A=5"], ["clone"]])
def test_what_is_not_known_is_not_written(
    api: Api, caddis: Caddis, command: list[str], changes: dict[str, Any]
) -> None:
    serve(api, machine(**changes))
    outcome = caddis("machine", command[0], ID, "-a", "hello", *command[1:])
    assert outcome.code == 1
    assert "not known" in outcome.err
    assert all(request.method == "GET" for request in api.seen)


def ports(api: Api, caddis: Caddis, services: list[dict[str, Any]], *words: str) -> list[dict[str, Any]]:
    serve(api, machine(config={**CONFIG, "services": services}))
    outcome = caddis("machine", "update", ID, "-a", "hello", "-y", *words)
    assert outcome.code == 0, outcome.err
    return list(sent(api)["services"])


def service(inner: int, *outer: int, **more: Any) -> dict[str, Any]:
    return {"protocol": "tcp", "internal_port": inner, "ports": [{"port": port} for port in outer], **more}


class TestPorts:
    def test_one_that_is_there_is_replaced(self, api: Api, caddis: Caddis) -> None:
        (only,) = ports(api, caddis, CONFIG["services"], "-p", "80:8080/tcp:tls")
        assert only["ports"] == [{"port": 80, "handlers": ["tls"]}]

    def test_one_that_leads_elsewhere_now_leads_there_only(self, api: Api, caddis: Caddis) -> None:
        assert ports(api, caddis, [service(8080, 80, 81)], "-p", "80:9090") == [service(8080, 81), service(9090, 80)]

    def test_a_service_that_loses_its_last_port_goes(self, api: Api, caddis: Caddis) -> None:
        assert ports(api, caddis, [service(8080, 80)], "-p", "80:9090") == [service(9090, 80)]

    def test_a_service_that_never_had_ports_stays(self, api: Api, caddis: Caddis) -> None:
        assert ports(api, caddis, [service(7070)], "-p", "80:9090") == [service(7070), service(9090, 80)]

    def test_autostop_goes_to_all(self, api: Api, caddis: Caddis) -> None:
        found = ports(api, caddis, [service(1, 1), service(2, 2)], "--autostop", "stop", "--no-autostart")
        assert found == [
            service(1, 1, autostop="stop", autostart=False),
            service(2, 2, autostop="stop", autostart=False),
        ]


def test_an_empty_command_is_the_images_own_again(api: Api, caddis: Caddis) -> None:
    serve(api, machine(config={**CONFIG, "init": {"cmd": ["old"], "tty": True}}))
    assert caddis("machine", "update", ID, "-a", "hello", "-y", "--command", "").code == 0
    assert sent(api)["init"] == {"tty": True}


def clonable(api: Api, **changes: Any) -> None:
    serve(api, machine(config={**CONFIG, "init": {"cmd": ["old"]}, "auto_destroy": True, **changes}))
    for app in ("hello", "other"):
        api.on("POST", f"/v1/apps/{app}/machines", (200, machine(id="9080", state="created")))
        api.on("GET", f"/v1/apps/{app}/machines/9080", (200, machine(id="9080")))
        api.on("GET", f"/v1/apps/{app}/machines/9080/wait", (200, {"ok": True}))


def test_clone_makes_the_same_again(api: Api, caddis: Caddis) -> None:
    clonable(api)
    outcome = caddis("machine", "clone", ID, "-a", "hello", "--json")
    assert outcome.json["id"] == "9080"
    (made,) = api.asked(MACHINES)
    assert made.body == {"config": {**CONFIG, "init": {"cmd": ["old"]}, "auto_destroy": True}, "region": "lab"}


def test_clone_into_another_app_and_region_with_changes(api: Api, caddis: Caddis) -> None:
    clonable(api)
    words = "--to-app other --region ams --name two -e B=3 --vm-memory 512 --clear-auto-destroy".split()
    outcome = caddis("machine", "clone", ID, "-a", "hello", *words, "--override-cmd", "new 'a b'")
    assert outcome.code == 0, outcome.err
    assert "9080" in outcome.out
    (made,) = api.asked("/v1/apps/other/machines")
    assert (made.body["name"], made.body["region"]) == ("two", "ams")
    config = made.body["config"]
    assert config["init"] == {"cmd": ["new", "a b"]}
    assert config["env"] == {"A": "1", "B": "3"}
    assert config["guest"]["memory_mb"] == 512
    assert config["auto_destroy"] is False


def test_clone_with_the_images_own_arguments(api: Api, caddis: Caddis) -> None:
    clonable(api)
    assert caddis("machine", "clone", ID, "-a", "hello", "--clear-cmd", "--detach").code == 0
    assert not api.asked(MACHINES)[0].body["config"].get("init")
    assert not api.asked(f"{MACHINES}/9080/wait")


def test_clone_refuses_what_it_cannot_copy(api: Api, caddis: Caddis) -> None:
    clonable(api, mounts=[{"volume": "vol_1", "path": "/data"}])
    outcome = caddis("machine", "clone", ID, "-a", "hello")
    assert outcome.code == 1
    assert "has a volume" in outcome.err
    assert caddis("machine", "clone", ID, "-a", "hello", "--clear-cmd", "--override-cmd", "x").code == 2
    assert not api.asked(MACHINES)
