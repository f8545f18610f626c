"""Every call of the API as a value: built here once, sent by the blocking and by the asynchronous client.

Paths are absolute from the API's root. Names and ids are escaped, so that nothing a user types can leave its segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

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
    nonce: str = ""
    """Of the Lease under which it is made; empty without one."""
    answer_s: float = 60.0
    idempotency_key: str = ""
    """Makes it one deed however often it is sent. Only for calls whose server knows such keys."""
    repeatable: bool = False
    """Whether sending it twice does what sending it once does, as for what only reads."""
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


def create_app(name: str, org_slug: str, network: str, key: str) -> Call:
    body = {"app_name": name, "name": name, "org_slug": org_slug, "network": network, "idempotency_key": key}
    return Call(method="POST", path="/v1/apps", body=_given(body), idempotency_key=key)


def delete_app(name: str, force: bool) -> Call:
    return Call(method="DELETE", path=_app(name), query=_flags(force=force))


def create_deploy_token(app: str, *, name: str, expiry: str) -> Call:
    return Call(method="POST", path=f"{_app(app)}/deploy_token", body=_given({"name": name, "expiry": expiry}))


def deploy_tokens(app: str) -> Call:
    return Call(method="GET", path=f"{_app(app)}/deploy_tokens", inner="tokens")


def revoke_deploy_token(app: str, id: str) -> Call:
    return Call(method="DELETE", path=f"{_app(app)}/deploy_tokens/{quote(id, safe='')}")


def machines(
    app: str, *, region: str, state: str, metadata: Mapping[str, str], include_deleted: bool, include_leases: bool
) -> Call:
    query = {f"metadata.{key}": value for key, value in metadata.items()}
    query |= _given({"region": region, "state": state})
    query |= _flags(include_deleted=include_deleted, include_leases=include_leases)
    return Call(method="GET", path=f"{_app(app)}/machines", query=query)


def organization_machines(
    org_slug: str, *, region: str, state: str, updated_after: str, include_deleted: bool, limit: int, cursor: str
) -> Call:
    query = _given({"region": region, "state": state, "updated_after": updated_after, "cursor": cursor})
    query |= _flags(include_deleted=include_deleted) | ({"limit": str(limit)} if limit else {})
    return Call(method="GET", path=f"/v1/orgs/{quote(org_slug, safe='')}/machines", query=query)


def machine(app: str, id: str, include_leases: bool) -> Call:
    return Call(method="GET", path=_machine(app, id), query=_flags(include_leases=include_leases))


def create_machine(
    app: str,
    config: Json,
    *,
    name: str,
    region: str,
    skip_launch: bool,
    skip_service_registration: bool,
    lease_ttl_s: int,
    key: str,
) -> Call:
    more = {
        "name": name,
        "region": region,
        "skip_launch": skip_launch,
        "skip_service_registration": skip_service_registration,
        "lease_ttl": lease_ttl_s,
    }
    body = {"config": config, **_given(more)}
    return Call(method="POST", path=f"{_app(app)}/machines", body=body, answer_s=300, idempotency_key=key)


def update_machine(
    app: str,
    id: str,
    config: Json,
    *,
    current_version: str,
    skip_launch: bool,
    skip_service_registration: bool,
    lease_ttl_s: int,
    min_secrets_version: int,
    nonce: str,
) -> Call:
    more = {
        "min_secrets_version": min_secrets_version,
        "current_version": current_version,
        "skip_launch": skip_launch,
        "skip_service_registration": skip_service_registration,
        "lease_ttl": lease_ttl_s,
    }
    body = {"config": config, **_given(more)}
    return Call(method="POST", path=_machine(app, id), body=body, nonce=nonce, answer_s=300)


def delete_machine(app: str, id: str, force: bool, nonce: str) -> Call:
    return Call(method="DELETE", path=_machine(app, id), query=_flags(force=force), nonce=nonce)


def start(app: str, id: str, nonce: str) -> Call:
    return Call(method="POST", path=_machine(app, id, "start"), nonce=nonce)


def stop(app: str, id: str, *, signal: str, timeout: str, nonce: str) -> Call:
    body = _given({"signal": signal, "timeout": timeout})
    return Call(method="POST", path=_machine(app, id, "stop"), body=body, nonce=nonce)


def restart(app: str, id: str, *, force_stop: bool, timeout: str, signal: str, nonce: str) -> Call:
    query = _given({"timeout": timeout, "signal": signal}) | _flags(force_stop=force_stop)
    return Call(method="POST", path=_machine(app, id, "restart"), query=query, nonce=nonce, answer_s=330)


def suspend(app: str, id: str, nonce: str) -> Call:
    return Call(method="POST", path=_machine(app, id, "suspend"), nonce=nonce)


def cordon(app: str, id: str, nonce: str) -> Call:
    return Call(method="POST", path=_machine(app, id, "cordon"), nonce=nonce)


def uncordon(app: str, id: str, nonce: str) -> Call:
    return Call(method="POST", path=_machine(app, id, "uncordon"), nonce=nonce)


def signal(app: str, id: str, name: str) -> Call:
    return Call(method="POST", path=_machine(app, id, "signal"), body={"signal": name})


def wait(app: str, id: str, *, states: Sequence[str], timeout_s: int, version: str) -> Call:
    query = {"state": ",".join(states), "timeout": str(timeout_s), **_given({"version": version})}
    return Call(method="GET", path=_machine(app, id, "wait"), query=query, answer_s=timeout_s + 15)


def execute(app: str, id: str, command: Sequence[str], *, stdin: str, timeout_s: int, container: str) -> Call:
    body = {"command": list(command), "timeout": timeout_s, **_given({"stdin": stdin, "container": container})}
    return Call(method="POST", path=_machine(app, id, "exec"), body=body, answer_s=timeout_s + 15)


def attach(
    app: str,
    id: str,
    command: Sequence[str],
    *,
    window: tuple[int, int] | None,
    term: str,
    user: str,
    container: str,
    stop_after: bool,
) -> Call:
    """Of a WebSocket. Words of the command are repeated, which `query` has no way to say."""
    columns, rows = window or (0, 0)
    size = {"tty": "1", "cols": str(columns), "rows": str(rows), **_given({"term": term})} if window else {}
    pairs = [*(("command", word) for word in command), *size.items()]
    pairs += [*_given({"user": user, "container": container}).items(), *_flags(stop_after=stop_after).items()]
    return Call(method="GET", path=f"{_machine(app, id, 'exec')}/stream?{urlencode(pairs)}")


def events(app: str, id: str, limit: int) -> Call:
    return Call(method="GET", path=_machine(app, id, "events"), query={"limit": str(limit)})


def versions(app: str, id: str) -> Call:
    return Call(method="GET", path=_machine(app, id, "versions"))


def processes(app: str, id: str, *, sort_by: str, order: str) -> Call:
    return Call(method="GET", path=_machine(app, id, "ps"), query=_given({"sort_by": sort_by, "order": order}))


def lease(app: str, id: str, nonce: str) -> Call:
    return Call(method="GET", path=_machine(app, id, "lease"), inner="data", nonce=nonce)


def take_lease(app: str, id: str, *, ttl_s: int, description: str, nonce: str) -> Call:
    """With the nonce of a Lease it is refreshed."""
    body = _given({"ttl": ttl_s, "description": description})
    return Call(method="POST", path=_machine(app, id, "lease"), body=body, inner="data", nonce=nonce)


def release_lease(app: str, id: str, nonce: str) -> Call:
    return Call(method="DELETE", path=_machine(app, id, "lease"), nonce=nonce)


def metadata(app: str, id: str) -> Call:
    return Call(method="GET", path=_machine(app, id, "metadata"))


def merge_metadata(app: str, id: str, changes: Mapping[str, str | None], machine_version: str) -> Call:
    body = {"metadata": dict(changes), **_given({"machine_version": machine_version})}
    return Call(method="PATCH", path=_machine(app, id, "metadata"), body=body)


def set_metadata(app: str, id: str, key: str, value: str) -> Call:
    return Call(method="POST", path=_metadata(app, id, key), body={"value": value})


def delete_metadata(app: str, id: str, key: str) -> Call:
    return Call(method="DELETE", path=_metadata(app, id, key))


def secrets(app: str, show_values: bool) -> Call:
    return Call(method="GET", path=f"{_app(app)}/secrets", query=_flags(show_secrets=show_values), inner="secrets")


def change_secrets(app: str, values: Mapping[str, str | None]) -> Call:
    return Call(method="POST", path=f"{_app(app)}/secrets", body={"values": dict(values)}, inner="version")


def releases(app: str, limit: int) -> Call:
    return Call(method="GET", path=_release(app), query={"limit": str(limit)}, inner="releases")


def release(app: str, version: int | str) -> Call:
    return Call(method="GET", path=_release(app, version))


def create_release(app: str, body: Json, key: str) -> Call:
    return Call(method="POST", path=_release(app), body=_given(body), idempotency_key=key)


def change_release(app: str, version: int, body: Json) -> Call:
    given = {name: value for name, value in body.items() if value is not None}
    return Call(method="PATCH", path=_release(app, version), body=given, repeatable=True)


def scale(app: str) -> Call:
    return Call(method="GET", path=f"{_app(app)}/scale", inner="groups")


def change_scale(app: str, groups: Mapping[str, Json | None]) -> Call:
    body = {"groups": dict(groups)}
    return Call(method="PUT", path=f"{_app(app)}/scale", body=body, inner="groups", repeatable=True)


def resolve_image(app: str, ref: str) -> Call:
    return Call(method="GET", path=f"{_app(app)}/image", query={"ref": ref})


def regions() -> Call:
    return Call(method="GET", path="/v1/platform/regions")


def current_token() -> Call:
    return Call(method="GET", path="/v1/tokens/current")


def logs(app: str, *, machine: str, region: str, next_token: str) -> Call:
    query = _given({"instance": machine, "region": region, "next_token": next_token})
    return Call(method="GET", path=f"/api/v1/apps/{quote(app, safe='')}/logs", query=query, logs=True)


@dataclass(frozen=True, slots=True)
class MachinesPage:
    """Machines of an organization; the cursor of the next page, empty on the last; regions that did not answer."""

    machines: list[Json]
    cursor: str
    missing: tuple[str, ...]


def machines_page(reply: Json) -> MachinesPage:
    missing = tuple(str(region) for region in reply.get("error_regions") or ())
    return MachinesPage(list(reply.get("machines") or ()), str(reply.get("next_cursor") or ""), missing)


def log_page(reply: Json, before: str) -> LogPage:
    """`before` is the cursor to stay at when this page has none."""
    entries = [entry.get("attributes") or {} for entry in reply.get("data") or ()]
    return LogPage(entries, str((reply.get("meta") or {}).get("next_token") or before))


def builds(app: str) -> Call:
    return Call(method="GET", path=f"{_app(app)}/builds", inner="builds")


def build(app: str, id: str) -> Call:
    return Call(method="GET", path=_build(app, id))


def build_body(
    context: str,
    *,
    tag: str,
    dockerfile: str,
    target: str,
    args: Mapping[str, str],
    labels: Mapping[str, str],
    secrets: Mapping[str, str],
    no_cache: bool,
) -> Json:
    texts = _given({"context": context, "tag": tag, "dockerfile": dockerfile, "target": target, "no_cache": no_cache})
    maps = {"args": dict(args), "labels": dict(labels), "secrets": dict(secrets)}
    return texts | {name: value for name, value in maps.items() if value}


def start_build(app: str, body: Json, key: str) -> Call:
    return Call(method="POST", path=f"{_app(app)}/builds", body=body, idempotency_key=key)


def cancel_build(app: str, id: str) -> Call:
    return Call(method="POST", path=_build(app, id, "cancel"))


def build_log(app: str, id: str, offset: int, wait_s: int) -> Call:
    query = _given({"offset": str(offset) if offset else "", "wait": str(wait_s) if wait_s else ""})
    return Call(method="GET", path=_build(app, id, "logs"), query=query)


def _build(app: str, id: str, action: str = "") -> str:
    return f"{_app(app)}/builds/{quote(id, safe='')}" + (f"/{action}" if action else "")


def _release(app: str, version: int | str = "") -> str:
    return f"{_app(app)}/releases" + (f"/{quote(str(version), safe='')}" if version != "" else "")


def _app(name: str) -> str:
    return f"/v1/apps/{quote(name, safe='')}"


def _machine(app: str, id: str, action: str = "") -> str:
    return f"{_app(app)}/machines/{quote(id, safe='')}" + (f"/{action}" if action else "")


def _metadata(app: str, id: str, key: str) -> str:
    return f"{_machine(app, id, 'metadata')}/{quote(key, safe='')}"


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in ("", None, False)}


def _flags(**values: bool) -> dict[str, str]:
    return {key: "true" for key, value in values.items() if value}
