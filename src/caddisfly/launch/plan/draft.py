"""All that a plan is made of but the wishes, which may change while somebody looks at it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from caddisfly.client import Client
from caddisfly.launch.plan import apps, naming, plan
from caddisfly.launch.plan.apps import Own
from caddisfly.launch.plan.plan import Plan, Present
from caddisfly.launch.plan.source import Source
from caddisfly.launch.plan.surroundings import Surroundings
from caddisfly.launch.plan.unfinished import Unfinished
from caddisfly.launch.plan.values import GIVEN, Value
from caddisfly.launch.plan.wishes import Wishes


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    client: Client
    directory: Path
    present: Present
    source: Source
    around: Surroundings
    unfinished: Unfinished
    strict: bool
    pair: bool

    def plan(self, wishes: Wishes) -> tuple[Plan, Own | None]:
        """And the app of its name, if this account has one.

        A name that only lies near and belongs to another app of the account is passed over: that app is not meant.
        """
        made = plan.made(
            self.directory,
            wishes,
            self.present,
            self.source,
            self.around,
            strict=self.strict,
            pair=self.pair,
            earlier=self.unfinished.name,
        )
        made.config()  # what was said has to make sense before anybody is asked anything
        own = apps.own(self.client, made, self.unfinished)
        if own is None:
            return made, None
        if not own.meant and made.name.origin != GIVEN:
            other = Value(naming.suffixed(own.name), f"{own.name} is another app of yours")
            return made.named(other), None
        org = made.org if wishes.org else Value(own.org, "where the app is")
        return replace(made, org=org), own
