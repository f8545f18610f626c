"""The SDK against a real server: what it sends, what it makes of answers, when it tries again."""

from __future__ import annotations

from typing import Any

import pytest

from caddisfly.client import (
    ApiError,
    AsyncClient,
    Client,
    ConflictError,
    ConnectionFailed,
    FinalError,
    NotFoundError,
    PreconditionError,
    RetryableError,
    TimedOut,
    UnauthorizedError,
)
from caddisfly.client.transport import authorization
from tests.client.conftest import Api, Ask
from tests.conftest import free_port

MACHINE = {"id": "148e21ea7e46e8", "state": "created", "name": "m"}


async def test_a_create_is_sent_as_the_api_wants_it(api: Api, ask: Ask) -> None:
    api.on("POST", "/v1/apps/hello/machines", (200, MACHINE))
    made = await ask("machines.create", "hello", {"image": "nginx"}, name="m", region="ams")
    assert made == MACHINE
    (sent,) = api.seen
    assert sent.headers["authorization"] == "Bearer secret"
    assert sent.headers["user-agent"].startswith("caddisfly/")
    assert sent.body == {"config": {"image": "nginx"}, "name": "m", "region": "ams"}


async def test_names_cannot_leave_their_segment(api: Api, ask: Ask) -> None:
    with pytest.raises(NotFoundError):
        await ask("apps.get", "../tokens?x=1")
    assert api.seen[0].path == "/v1/apps/..%2Ftokens%3Fx%3D1"


async def test_lists_and_filters(api: Api, ask: Ask) -> None:
    api.on("GET", "/v1/apps", (200, {"total_apps": 1, "apps": [{"name": "hello"}]}))
    api.on("GET", "/v1/apps/hello/machines", (200, [MACHINE]))
    assert await ask("apps.list") == [{"name": "hello"}]
    assert await ask("machines.list", "hello", metadata={"role": "web"}, state="started") == [MACHINE]
    assert api.seen[0].query == {"org_slug": "personal"}
    assert api.seen[1].query == {"metadata.role": "web", "state": "started"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, FinalError),
        (401, UnauthorizedError),
        (404, NotFoundError),
        (409, ConflictError),
        (412, PreconditionError),
        (500, RetryableError),
        (501, FinalError),
    ],
)
async def test_errors_have_a_class_a_text_and_the_request_id(
    api: Api, ask: Ask, status: int, kind: type[ApiError]
) -> None:
    api.on("GET", "/v1/apps/x", (status, {"error": "some: text", "status": "name_taken"}))
    with pytest.raises(kind) as caught:
        await ask("apps.get", "x")
    error = caught.value
    assert (error.text, error.status, error.status_code) == ("some: text", "name_taken", status)
    assert error.request_id == "01REQ-lab"
    assert len(api.seen) == 1


async def test_a_lease_style_error_shows_its_message(api: Api, ask: Ask) -> None:
    api.on("POST", "/v1/apps/x/machines/1/start", (409, {"status": "error", "message": "lease currently held by a@b"}))
    with pytest.raises(ConflictError, match="held by a@b"):
        await ask("machines.start", "x", "1")


async def test_an_answer_that_is_no_json_is_shown(api: Api, ask: Ask) -> None:
    api.on("POST", "/v1/apps", (502, "<html>bad gateway</html>"))
    with pytest.raises(RetryableError, match="bad gateway"):
        await ask("apps.create", "x")


async def test_a_read_is_tried_again(api: Api, ask: Ask) -> None:
    api.on("GET", "/v1/apps/x", (503, {"error": "unavailable: starting"}), (502, ""), "drop", (200, {"name": "x"}))
    assert await ask("apps.get", "x") == {"name": "x"}
    assert len(api.seen) == 4


async def test_a_write_is_not_tried_again(api: Api, ask: Ask) -> None:
    api.on("POST", "/v1/apps/x/machines", "drop", (200, MACHINE))
    with pytest.raises(ConnectionFailed):
        await ask("machines.create", "x", {"image": "nginx"})
    assert len(api.seen) == 1


async def test_the_server_says_how_long_to_wait(api: Api, ask: Ask) -> None:
    api.on("GET", "/v1/apps/x", (429, {"error": "rate limit exceeded"}, {"retry-after": "1"}), (200, {"name": "x"}))
    assert await ask("apps.get", "x") == {"name": "x"}


def test_nobody_there_is_told_after_the_retries() -> None:
    with (
        Client(f"http://127.0.0.1:{free_port()}", retries=1) as client,
        pytest.raises(ConnectionFailed, match="does not answer"),
    ):
        client.apps.create("x")


async def test_a_wait_goes_on_after_each_minute(api: Api, ask: Ask) -> None:
    late = (408, {"error": "deadline_exceeded: machine failed to reach desired state, started, currently stopped"})
    api.on("GET", "/v1/apps/x/machines/1/wait", late, late, (200, {"ok": True, "state": "started"}))
    assert (await ask("machines.wait", "x", "1", "started", "failed", timeout_s=150))["state"] == "started"
    assert [sent.query["state"] for sent in api.seen] == ["started,failed"] * 3
    assert all(1 <= int(sent.query["timeout"]) <= 60 for sent in api.seen)


async def test_a_wait_ends_with_what_it_waited_for(api: Api, ask: Ask) -> None:
    api.on("GET", "/v1/apps/x/machines/1/wait", (408, {"error": "deadline_exceeded: currently starting"}))
    with pytest.raises(TimedOut, match="currently starting"):
        await ask("machines.wait", "x", "1", timeout_s=0.05)


async def test_exec_and_deletes(api: Api, ask: Ask) -> None:
    api.on("POST", "/v1/apps/x/machines/1/exec", (200, {"exit_code": 3, "stdout": "o", "stderr": "e"}))
    api.on("DELETE", "/v1/apps/x/machines/1", (200, {"ok": True}))
    api.on("DELETE", "/v1/apps/x", (202, None))
    assert (await ask("machines.exec", "x", "1", ["ls", "-l"]))["exit_code"] == 3
    assert await ask("machines.delete", "x", "1", force=True) is None
    assert await ask("apps.delete", "x") is None
    assert api.seen[0].body == {"command": ["ls", "-l"], "timeout": 30}
    assert api.seen[1].query == {"force": "true"}


def log_page(text: str, token: str) -> tuple[int, dict[str, Any]]:
    entries = [{"id": "1", "attributes": {"message": text}}] if text else []
    return 200, {"data": entries, "meta": {"next_token": token}}


def test_following_logs_keeps_the_cursor(api: Api) -> None:
    api.on("GET", "/api/v1/apps/x/logs", log_page("one", "10"), log_page("", ""), log_page("two", "20"))
    with Client(api.url) as client:
        lines = client.logs.follow("x")
        assert [next(lines)["message"], next(lines)["message"]] == ["one", "two"]
    assert [sent.query.get("next_token") for sent in api.seen] == [None, "10", "10"]


async def test_following_logs_asynchronously(api: Api) -> None:
    api.on("GET", "/api/v1/apps/x/logs", log_page("one", "10"), log_page("two", "20"))
    async with AsyncClient(api.url) as client:
        lines = client.logs.follow("x")
        assert [(await anext(lines))["message"], (await anext(lines))["message"]] == ["one", "two"]
        await lines.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("token", "header"),
    [
        ("fo1_abc", "Bearer fo1_abc"),
        ("fm2_abc,fm2_def", "FlyV1 fm2_abc,fm2_def"),
        ("FlyV1 fm2_abc", "FlyV1 fm2_abc"),
        ("Bearer abc", "Bearer abc"),
    ],
)
def test_the_scheme_follows_the_token(token: str, header: str) -> None:
    assert authorization(token) == header
