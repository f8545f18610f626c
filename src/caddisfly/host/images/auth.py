"""How a registry wants to be asked: nothing, Basic, or a Bearer token from a place that it names.

The flow is Docker's: ask without credentials, read the `WWW-Authenticate` of the 401, fetch a token for exactly
`repository:<name>:pull`, ask again. Credentials go to the registry they belong to and to the token server that it
names, and nowhere else; over plain http only when the registry itself is one we talk plain http to.
"""

from __future__ import annotations

import base64
import re
import time
from dataclasses import dataclass

import httpx
from pydantic import BaseModel, ValidationError

from caddisfly.host.images.settings import Credentials

MAX_TOKEN_BYTES = 256 << 10
_DEFAULT_LIFE_S, _MARGIN_S = 60.0, 10.0
_IDENTITY_TOKEN = "<token>"
"""The user name under which Docker's helpers hand out a token that is traded for access, not a password."""
_PARAMETER = re.compile(r'([A-Za-z_]+)="((?:[^"\\]|\\.)*)"')


class AuthError(Exception):
    """The registry asks for something that we cannot or will not give."""


class _Answer(BaseModel):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


@dataclass(frozen=True, slots=True)
class Challenge:
    """A parsed `WWW-Authenticate` header."""

    scheme: str
    parameters: dict[str, str]

    @staticmethod
    def parse(header: str) -> Challenge:
        scheme, _, rest = header.strip().partition(" ")
        return Challenge(scheme.lower(), {key.lower(): value for key, value in _PARAMETER.findall(rest[:4096])})


@dataclass(frozen=True, slots=True)
class Grant:
    """An `Authorization` header and the moment until which it is good."""

    header: str
    until: float

    @property
    def fresh(self) -> bool:
        return time.monotonic() < self.until


def basic(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password.get_secret_value()}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def token_request(
    challenge: Challenge, *, repository: str, credentials: Credentials | None, plain_http: bool
) -> httpx.Request:
    """The request for a Bearer token."""
    try:
        realm = httpx.URL(challenge.parameters.get("realm", ""))
    except httpx.InvalidURL:
        raise AuthError("it names a token server whose address cannot be read") from None
    if realm.scheme != "https" and not (realm.scheme == "http" and plain_http):
        raise AuthError("it names a token server that is not on https")
    query = {"scope": f"repository:{repository}:pull"}
    if service := challenge.parameters.get("service"):
        query["service"] = service
    if credentials is not None and credentials.username == _IDENTITY_TOKEN:
        token = credentials.password.get_secret_value()
        form = {**query, "grant_type": "refresh_token", "client_id": "caddisfly", "refresh_token": token}
        return httpx.Request("POST", realm, data=form)
    headers = {"Authorization": basic(credentials)} if credentials else {}
    return httpx.Request("GET", realm.copy_merge_params(query), headers=headers)


def grant_from(body: bytes) -> Grant:
    """The token in a token server's answer."""
    try:
        answer = _Answer.model_validate_json(body)
    except ValidationError:
        raise AuthError("its token server answers with something that is not a token") from None
    token = answer.token or answer.access_token
    if not token or not token.isascii() or any(char.isspace() for char in token):
        raise AuthError("its token server answers without a token")
    life = answer.expires_in if answer.expires_in and answer.expires_in > 0 else _DEFAULT_LIFE_S
    return Grant(f"Bearer {token}", time.monotonic() + max(1.0, life - _MARGIN_S))
