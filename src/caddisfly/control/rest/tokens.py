"""Tokens: what a token says about itself (reference machines-api, 1.15)."""

from __future__ import annotations

from fastapi import APIRouter, Response

from caddisfly.control.rest import shapes, wire
from caddisfly.control.rest.reach import Caller

router = APIRouter(prefix="/v1/tokens", tags=["tokens"], responses=shapes.ERRORS)


@router.get("/current", name="Tokens_current", responses=shapes.gives(shapes.TokensReply), response_model=None)
async def current_tokens(caller: Caller) -> Response:
    tokens = [
        {
            "token_id": facts.id,
            "organization": organization.name,
            "org_slug": organization.slug,
            "apps": [facts.app_name] if facts.app_id else [],
            "user": facts.user_email,
            "restricted_to_machine": "",
            "source_machine_id": "",
        }
        for facts in caller.tokens
        for organization in facts.organizations
    ]
    return wire.reply({"tokens": tokens})
