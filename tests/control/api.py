"""A control in this process, and clients for it. Every reply is held against the OpenAPI document that is served."""

from __future__ import annotations

from typing import Any

import httpx
from fastapi import FastAPI
from openapi_core import OpenAPI
from openapi_core.templating.paths.exceptions import OperationNotFound, PathNotFound
from openapi_core.testing import MockRequest, MockResponse
from starlette.types import ASGIApp

from caddisfly.control.control import Control
from caddisfly.control.rest import api
from caddisfly.control.settings import ControlSettings
from caddisfly.model.app import Organization
from tests.conftest import eventually

_BASE = "http://control"


_documents: list[OpenAPI] = []


def _document(routes: FastAPI) -> OpenAPI:
    """Made once: it is the same for each control, and checking it takes long."""
    if not _documents:
        _documents.append(OpenAPI.from_dict(routes.openapi()))
    return _documents[0]


UNAUTHORIZED = {"error": "unauthorized", "next": "caddis apps list, for what your token reaches"}
"""All that is said of what belongs to others."""


class Api:
    """`client(token)` speaks as whoever has the token; `personal` and `theirs` are two tenants."""

    def __init__(self, settings: ControlSettings) -> None:
        self.settings = settings
        self.control = Control(settings)
        self.routes = api.routes(self.control)
        self.asgi: ASGIApp = api.build(self.control)
        self._document = _document(self.routes)
        self._clients: list[httpx.AsyncClient] = []
        self.users: dict[str, str] = {}

    async def start(self) -> None:
        await self.control.start()

    async def ready(self, *, hosts: int = 0) -> None:
        control = self.control
        await eventually(lambda: control.projection.ready.is_set() and len(control.hosts.up) >= hosts)

    async def stop(self) -> None:
        for client in self._clients:
            await client.aclose()
        await self.control.stop()

    async def tenant(self, slug: str) -> tuple[Organization, str]:
        """A user with an organization, and a token."""
        user = await self.control.accounts.create_user(f"{slug}@example.com")
        self.users[slug] = user
        organization = await self.control.accounts.create_organization(slug, name=slug.title(), owner_id=user)
        _, secret = await self.control.accounts.create_token(name="test", user_id=user)
        return organization, secret

    def client(self, token: str = "", *, header: str = "") -> httpx.AsyncClient:
        header = header or (f"Bearer {token}" if token else "")
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.asgi),
            base_url=_BASE,
            headers={"authorization": header} if header else {},
            event_hooks={"response": [self._validate]},
            timeout=90,
        )
        self._clients.append(client)
        return client

    async def _validate(self, response: httpx.Response) -> None:
        data = await response.aread()
        assert response.headers["fly-request-id"].endswith(f"-{self.settings.region}")
        assert response.status_code < 300 or response.status_code >= 400, "a redirect is an error to fly-go"
        if response.headers.get("content-type") != "application/json":
            return
        if response.status_code >= 400:
            body = response.json()
            assert isinstance(body["error"], str)
            assert "detail" not in body
            assert isinstance(body.get("status", ""), str)
        url = response.request.url
        request = MockRequest(_BASE, response.request.method.lower(), url.path.rstrip("/"))
        answer = MockResponse(data=data, status_code=response.status_code)
        try:
            self._document.validate_response(request, answer)
        except (PathNotFound, OperationNotFound):
            assert response.status_code in (200, 404, 405)


async def wait(client: httpx.AsyncClient, app: str, machine_id: str, state: str) -> dict[str, Any]:
    """Through the API, as a client does it."""
    reply = await client.get(f"/v1/apps/{app}/machines/{machine_id}/wait?state={state}&timeout=20")
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    return body
