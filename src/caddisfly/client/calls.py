"""Every call of the API as a value: built here once, sent by the blocking and by the asynchronous client.

Paths are absolute from the API's root. Names and ids are escaped, so that nothing a user types can leave its segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

Json = dict[str, Any]

WAIT_MAX_S = 60
"""The longest single wait that the API allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """`inner` names the member of the reply that is the result. `answer_s` is how long the server may take."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    inner: str = ""
    answer_s: float = 60.0
    logs: bool = False
    """Whether it goes to the server of logs, which on Fly is another one."""

    def result(self, reply: Any) -> Any:
        return reply[self.inner] if self.inner else reply


@dataclass(frozen=True, slots=True)
class LogPage:
    """Log entries, oldest first, and the cursor to ask for what comes after them."""

    entries: list[Json]
    next_token: str


def apps(org_slug: str) -> Call:
    return Call(method="GET", path="/v1/apps", query={"org_slug": org_slug}, inner="apps")


def app(name: str) -> Call:
    return Call(method="GET", path=_app(name))


def create_app(name: str, org_slug: str, network: str) -> Call:
    body = {"app_name": name, "name": name, "org_slug": org_slug, "network": network}
    return Call(method="POST", path="/v1/apps", body=_given(body))


def delete_app(name: str, force: bool) -> Call:
    return Call(method="DELETE", path=_app(name), query=_flags(force=force))


def machines(app: str, *, region: str, state: str, metadata: Mapping[str, str], include_deleted: bool) -> Call:
    query = {f"metadata.{key}": value for key, value in metadata.items()}
    query |= _given({"region": region, "state": state}) | _flags(include_deleted=include_deleted)
    return Call(method="GET", path=f"{_app(app)}/machines", query=query)


def machine(app: str, id: str) -> Call:
    return Call(method="GET", path=_machine(app, id))


def create_machine(app: str, config: Json, *, name: str, region: str, skip_launch: bool) -> Call:
    body = {"config": config, **_given({"name": name, "region": region, "skip_launch": skip_launch})}
    return Call(method="POST", path=f"{_app(app)}/machines", body=body, answer_s=300)


def update_machine(app: str, id: str, config: Json, *, current_version: str, skip_launch: bool) -> Call:
    body = {"config": config, **_given({"current_version": current_version, "skip_launch": skip_launch})}
    return Call(method="POST", path=_machine(app, id), body=body, answer_s=300)


def delete_machine(app: str, id: str, force: bool) -> Call:
    return Call(method="DELETE", path=_machine(app, id), query=_flags(force=force))


def start(app: str, id: str) -> Call:
    return Call(method="POST", path=_machine(app, id, "start"))


def stop(app: str, id: str, *, signal: str, timeout: str) -> Call:
    return Call(method="POST", path=_machine(app, id, "stop"), body=_given({"signal": signal, "timeout": timeout}))


def restart(app: str, id: str, *, force_stop: bool, timeout: str, signal: str) -> Call:
    query = _given({"timeout": timeout, "signal": signal}) | _flags(force_stop=force_stop)
    return Call(method="POST", path=_machine(app, id, "restart"), query=query, answer_s=330)


def signal(app: str, id: str, name: str) -> Call:
    return Call(method="POST", path=_machine(app, id, "signal"), body={"signal": name})


def wait(app: str, id: str, *, states: Sequence[str], timeout_s: int, version: str) -> Call:
    query = {"state": ",".join(states), "timeout": str(timeout_s), **_given({"version": version})}
    return Call(method="GET", path=_machine(app, id, "wait"), query=query, answer_s=timeout_s + 15)


def execute(app: str, id: str, command: Sequence[str], *, stdin: str, timeout_s: int) -> Call:
    body = {"command": list(command), "timeout": timeout_s, **_given({"stdin": stdin})}
    return Call(method="POST", path=_machine(app, id, "exec"), body=body, answer_s=timeout_s + 15)


def events(app: str, id: str, limit: int) -> Call:
    return Call(method="GET", path=_machine(app, id, "events"), query={"limit": str(limit)})


def regions() -> Call:
    return Call(method="GET", path="/v1/platform/regions")


def current_token() -> Call:
    return Call(method="GET", path="/v1/tokens/current")


def logs(app: str, *, machine: str, region: str, next_token: str) -> Call:
    query = _given({"instance": machine, "region": region, "next_token": next_token})
    return Call(method="GET", path=f"/api/v1/apps/{quote(app, safe='')}/logs", query=query, logs=True)


def log_page(reply: Json, before: str) -> LogPage:
    """`before` is the cursor to stay at when this page has none."""
    entries = [entry.get("attributes") or {} for entry in reply.get("data") or ()]
    return LogPage(entries, str((reply.get("meta") or {}).get("next_token") or before))


def _app(name: str) -> str:
    return f"/v1/apps/{quote(name, safe='')}"


def _machine(app: str, id: str, action: str = "") -> str:
    return f"{_app(app)}/machines/{quote(id, safe='')}" + (f"/{action}" if action else "")


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in ("", None, False)}


def _flags(**values: bool) -> dict[str, str]:
    return {key: "true" for key, value in values.items() if value}
