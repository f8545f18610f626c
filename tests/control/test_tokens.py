"""Who gets in, with which header, and for how long."""

from __future__ import annotations

import random
import string

import pytest

from caddisfly.control.auth import token
from caddisfly.control.auth.access import Verifier
from caddisfly.control.records.accounts import Accounts
from caddisfly.control.records.database import Database
from caddisfly.control.records.tables import MembershipRow, TokenRow
from caddisfly.model.errors import NotFound, Unauthenticated
from caddisfly.model.machine import wall_ms


class Tenants:
    """Two organizations with a user each, and a token of every kind."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.accounts = Accounts(database)

    async def make(self) -> None:
        accounts = self.accounts
        self.user = await accounts.create_user("ann@example.com")
        self.mine = await accounts.create_organization("mine", name="Mine", owner_id=self.user)
        self.second = await accounts.create_organization("second", name="Second", owner_id=self.user)
        other = await accounts.create_user("bob@example.com")
        self.others = await accounts.create_organization("others", name="Others", owner_id=other)
        self.good_id, self.good = await accounts.create_token(name="good", user_id=self.user, org_id=self.mine.id)
        _, self.wide = await accounts.create_token(name="wide", user_id=self.user)
        _, self.foreign = await accounts.create_token(name="foreign", user_id=other)
        _, self.expired = await accounts.create_token(name="old", user_id=self.user, expires_ms=wall_ms() - 1)
        self.revoked_id, self.revoked = await accounts.create_token(name="revoked", user_id=self.user)
        await accounts.revoke_token(self.revoked_id)


@pytest.fixture
async def tenants(database: Database) -> Tenants:
    instance = Tenants(database)
    await instance.make()
    return instance


GOOD_HEADERS = [
    "Bearer {good}",
    "bearer {good}",
    "BEARER   {good}  ",
    "FlyV1 {good}",
    "flyv1 {good}",
    "Bearer FlyV1 {good}",
    "FlyV1 fm2_abc,{good}",
    "FlyV1 {good},fm2_abc",
    "Bearer {garbage},{good}",
    "Bearer {expired}, {revoked} ,{good}",
    "Bearer {good},{good},",
]
BAD_HEADERS = [
    "",
    "Bearer",
    "Bearer ",
    "{good}",
    "Basic {good}",
    "Bearer {expired}",
    "Bearer {revoked}",
    "Bearer {garbage}",
    "Bearer fm2_abc",
    "Bearer {good}x",
    "Bearer {shown}",
    "Bearer {hash}",
    "Bearer fo1_{hash}",
    "Bearer Bearer Bearer {good}",
    "Bearer {good} {good}",
    "FlyV1 ,,,",
    "Bearer \x00",
    "Bearer fo1_é",
]


def filled(header: str, tenants: Tenants) -> str:
    return header.format(
        good=tenants.good,
        expired=tenants.expired,
        revoked=tenants.revoked,
        garbage=token.generate(),
        shown=token.shown(tenants.good),
        hash=token.digest(tenants.good),
    )


async def test_headers_that_let_in(tenants: Tenants) -> None:
    verifier = Verifier(tenants.accounts, cache_s=0)
    for header in GOOD_HEADERS:
        access = await verifier.verify(filled(header, tenants))
        assert list(access.organizations) == [tenants.mine.id], header
    await verifier.close()


async def test_headers_that_do_not(tenants: Tenants) -> None:
    verifier = Verifier(tenants.accounts, cache_s=0)
    for header in BAD_HEADERS:
        with pytest.raises(Unauthenticated):
            await verifier.verify(filled(header, tenants))


async def test_no_mutation_of_a_token_is_one(tenants: Tenants) -> None:
    """Every single-character change, and many random ones, of a good token."""
    alphabet, seed = string.ascii_letters + string.digits + "-_", random.randrange(2**32)
    chance = random.Random(seed)
    wrong = set()
    for place in range(len(tenants.good)):
        wrong.add(tenants.good[:place] + chance.choice(alphabet) + tenants.good[place + 1 :])
        wrong.add(tenants.good[:place] + tenants.good[place + 1 :])
    wrong.discard(tenants.good)
    for mutation in wrong:
        facts = await tenants.accounts.find_token(token.digest(mutation))
        assert facts is None, f"seed {seed}"


async def test_several_tokens_unite_their_rights(tenants: Tenants) -> None:
    verifier = Verifier(tenants.accounts, cache_s=0)
    access = await verifier.verify(f"FlyV1 {tenants.good},{tenants.foreign}")
    assert set(access.organizations) == {tenants.mine.id, tenants.others.id}
    await verifier.close()


async def test_a_token_reaches_its_scope_and_no_further(tenants: Tenants) -> None:
    verifier = Verifier(tenants.accounts, cache_s=0)
    narrow = await verifier.verify(f"Bearer {tenants.good}")
    wide = await verifier.verify(f"Bearer {tenants.wide}")
    assert narrow.organization("mine").id == tenants.mine.id
    assert narrow.organization("personal").id == tenants.mine.id
    assert wide.organization("second").id == tenants.second.id
    for access, slug in ((narrow, "second"), (narrow, "others"), (wide, "others"), (wide, "personal")):
        with pytest.raises(NotFound):
            access.organization(slug)
    await verifier.close()


async def test_who_left_an_organization_takes_no_right_along(tenants: Tenants) -> None:
    async with tenants.database.writing() as session:
        await session.delete(await session.get_one(MembershipRow, (tenants.user, tenants.mine.id)))
    facts = await tenants.accounts.find_token(token.digest(tenants.good))
    assert facts is not None
    assert facts.organizations == ()


async def test_only_the_hash_is_stored(tenants: Tenants) -> None:
    async with tenants.database.reading() as session:
        row = await session.get_one(TokenRow, tenants.good_id)
    stored = " ".join(str(getattr(row, column.name)) for column in TokenRow.__table__.columns)
    assert tenants.good not in stored
    assert row.prefix == tenants.good[:12]
    assert row.hash == token.digest(tenants.good)


async def test_revoking_acts_within_the_cache_and_at_once_where_it_is_done(tenants: Tenants) -> None:
    here, elsewhere = Verifier(tenants.accounts, cache_s=60), Verifier(tenants.accounts, cache_s=0.05)
    for verifier in (here, elsewhere):
        await verifier.verify(f"Bearer {tenants.good}")
        await verifier.close()
    await tenants.accounts.revoke_token(tenants.good_id)
    here.forget(tenants.good_id)
    with pytest.raises(Unauthenticated):
        await here.verify(f"Bearer {tenants.good}")

    async def refused() -> bool:
        try:
            await elsewhere.verify(f"Bearer {tenants.good}")
        except Unauthenticated:
            return True
        return False

    from tests.conftest import eventually

    await eventually(refused, timeout_s=1)


async def test_a_remembered_token_still_expires(tenants: Tenants, monkeypatch: pytest.MonkeyPatch) -> None:
    _, short = await tenants.accounts.create_token(name="s", user_id=tenants.user, expires_ms=wall_ms() + 60_000)
    verifier = Verifier(tenants.accounts, cache_s=3600)
    await verifier.verify(f"Bearer {short}")
    await verifier.close()
    later = wall_ms() + 60_001
    monkeypatch.setattr("caddisfly.control.auth.access.wall_ms", lambda: later)
    with pytest.raises(Unauthenticated):
        await verifier.verify(f"Bearer {short}")


async def test_use_is_noted(tenants: Tenants) -> None:
    verifier = Verifier(tenants.accounts, cache_s=0)
    await verifier.verify(f"Bearer {tenants.good}")
    await verifier.close()
    facts = await tenants.accounts.find_token(token.digest(tenants.good))
    assert facts is not None
    assert wall_ms() - (facts.last_used_ms or 0) < 60_000


async def test_revoking_nothing_is_said(tenants: Tenants) -> None:
    with pytest.raises(NotFound):
        await tenants.accounts.revoke_token("01ARZ3NDEKTSV4RRFFQ69G5FAV")
