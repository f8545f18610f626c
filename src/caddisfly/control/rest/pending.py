"""The part of Fly's API that is not there yet. A client learns that, and not that it typed the path wrong.

Rights are checked all the same, so that a path gives nothing away before it does something.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Depends, Response

from caddisfly.control.rest import shapes
from caddisfly.control.rest.reach import app_within, authenticated
from caddisfly.model.errors import Unimplemented

_APP = """
GET,POST network_policies
DELETE network_policies/{policy}
GET,POST volumes
GET,PUT,DELETE volumes/{volume}
PUT volumes/{volume}/extend
GET,POST volumes/{volume}/snapshots
GET,POST secrets
GET,POST,DELETE secrets/{name}
GET secretkeys
GET,POST,DELETE secretkeys/{name}
POST secretkeys/{name}/generate
POST secretkeys/{name}/encrypt
POST secretkeys/{name}/decrypt
POST secretkeys/{name}/sign
POST secretkeys/{name}/verify
GET certificates
POST certificates/acme
POST certificates/custom
GET,DELETE certificates/{hostname}
POST certificates/{hostname}/check
DELETE certificates/{hostname}/acme
DELETE certificates/{hostname}/custom
GET,POST ip_assignments
DELETE ip_assignments/{ip}
"""
_OTHER = """
POST tokens/oidc
POST tokens/kms
POST tokens/authenticate
POST tokens/authorize
GET orgs/{org}/volumes
GET,POST postgres
"""

router = APIRouter(tags=["not there yet"], responses={**shapes.ERRORS, 501: {"model": shapes.ErrorReply}})


async def _not_there() -> Response:
    raise Unimplemented(
        "this part of the API is not implemented",
        why="this version of Caddisfly does not have it yet",
        next="the changelog says which version does",
    )


def _parameters(path: str) -> dict[str, Any]:
    """The part of the OpenAPI document for what stands in braces."""
    names = re.findall(r"{(\w+)}", path)
    return {
        "parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    }


for _table, _prefix, _check in (
    (_APP, "/v1/apps/{app}/", app_within),
    (_OTHER, "/v1/", authenticated),
):
    for _line in _table.split("\n"):
        if _line:
            _methods, _path = _line.split(" ")
            for _method in _methods.split(","):
                router.add_api_route(
                    _prefix + _path,
                    _not_there,
                    methods=[_method],
                    name=f"{_method}_{_path}".replace("/", "_").replace("{", "").replace("}", ""),
                    dependencies=[Depends(_check)],
                    openapi_extra=_parameters(_path),
                    response_model=None,
                )
