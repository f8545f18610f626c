"""From a header to what its bearer may reach.

A verified token is remembered for a moment (`token_cache_s`), because one command of flyctl makes a dozen calls. The
moment is the longest that a token revoked elsewhere still works; expiry is looked at on every use, and a token that
was not found is never remembered, so a new one works at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from caddisfly.control.auth import token
from caddisfly.control.records.accounts import Accounts, TokenFacts
from caddisfly.model.app import App, Organization
from caddisfly.model.errors import NotFound, PermissionDenied, Problem, Unauthenticated
from caddisfly.model.machine import wall_ms

log = logging.getLogger(__name__)

_MOST_REMEMBERED = 10_000
_USE_NOTED_EVERY_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Access:
    """What the bearer of one or more usable tokens may reach: the union of their rights."""

    tokens: tuple[TokenFacts, ...]

    @property
    def organizations(self) -> dict[str, Organization]:
        """By id, in a stable order."""
        return {org.id: org for facts in self.tokens for org in facts.organizations}

    @property
    def name(self) -> str:
        """Who this is, for other people: the owner of a lease."""
        return next((facts.user_email for facts in self.tokens if facts.user_email), f"{self.tokens[0].id}@tokens")

    def organization(self, slug: str) -> Organization:
        """The organization with this slug. Raises `NotFound` alike for one of others and for none at all.

        `personal` is what Fly's clients call the organization that everybody has: it means the first within reach
        for a bearer who has none of that very name.
        """
        mine = self.organizations.values()
        for organization in mine:
            if organization.slug == slug:
                return organization
        if slug == "personal" and len(mine) == 1:
            return next(iter(mine))
        raise NotFound(
            "organization not found",
            why=f"no organization {slug!r} within reach of this token",
            next=f"yours: {', '.join(organization.slug for organization in mine) or '(none)'}",
        )

    def whole_organization(self, slug: str) -> Organization:
        """The same, for what touches more than one app. Raises `PermissionDenied` for a token narrowed to an app."""
        organization = self.organization(slug)
        if not self.reaches(org_id=organization.id):
            raise PermissionDenied(
                "unauthorized",
                why=f"this token reaches one app of {organization.slug}, not the organization",
                next="use a token of the organization",
            )
        return organization

    def reaches(self, *, org_id: str, app_id: str = "") -> bool:
        """Whether any of the tokens is good for this app; without one, for the whole organization."""
        return any(facts.reaches(org_id=org_id, app_id=app_id) for facts in self.tokens)

    def lasting(self, app: App) -> TokenFacts:
        """Of the tokens that reach this app, the one that ends last."""
        good = [facts for facts in self.tokens if facts.reaches(org_id=app.organization.id, app_id=app.id)]
        return max(good, key=lambda facts: float("inf") if facts.expires_ms is None else facts.expires_ms)

    def check(self, app: App) -> App:
        """Raises `PermissionDenied` for an app of others. Names of apps are global, so its existence is no secret."""
        if not self.reaches(org_id=app.organization.id, app_id=app.id):
            raise PermissionDenied("unauthorized", next="caddis apps list, for what your token reaches")
        return app


class Verifier:
    """Turns an `Authorization` header into an `Access`."""

    def __init__(self, accounts: Accounts, *, cache_s: float) -> None:
        self._accounts, self._cache_s = accounts, cache_s
        self._known: dict[str, tuple[float, TokenFacts]] = {}
        self._notes: set[asyncio.Task[None]] = set()

    async def verify(self, header: str) -> Access:
        """Raises `Unauthenticated` without a usable token, `Unavailable` when that cannot be told."""
        now_ms = wall_ms()
        found = [await self._facts(token.digest(secret)) for secret in token.in_header(header)]
        usable = tuple(facts for facts in found if facts is not None and not facts.expired(now_ms))
        if not usable:
            raise Unauthenticated(
                "unauthenticated" if header else "no token",
                why="no usable token in the Authorization header",
                next="send Authorization: Bearer <token>; `caddis auth token` prints yours",
            )
        return Access(usable)

    def forget(self, token_id: str) -> None:
        """Drop what is remembered of a token, after revoking it."""
        self._known = {key: entry for key, entry in self._known.items() if entry[1].id != token_id}

    async def close(self) -> None:
        await asyncio.gather(*self._notes, return_exceptions=True)

    async def _facts(self, hashed: str) -> TokenFacts | None:
        known = self._known.get(hashed)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        self._known.pop(hashed, None)
        asked = time.monotonic()
        facts = await self._accounts.find_token(hashed)
        if facts is None:
            return None
        if self._cache_s:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            self._known[hashed] = (asked + self._cache_s, facts)
        now_ms = wall_ms()
        if now_ms - (facts.last_used_ms or 0) > _USE_NOTED_EVERY_MS and not facts.expired(now_ms):
            task = asyncio.create_task(self._note_use(facts.id, now_ms), name="token-last-used")
            self._notes.add(task)
            task.add_done_callback(self._notes.discard)
        return facts

    async def _note_use(self, token_id: str, now_ms: int) -> None:
        try:
            await self._accounts.touch_token(token_id, now_ms)
        except Problem as problem:  # the request does not depend on it; the next one notes it again
            log.info("token.use_not_noted", extra={"token_id": token_id, "reason": str(problem)})
