"""Whose turn it is."""

from __future__ import annotations

import pytest

from caddisfly.host.builds.build import Build
from caddisfly.host.builds.queue import Queue
from caddisfly.model.errors import Exhausted
from tests.builds.factories import a_build


def run_all(queue: Queue) -> list[Build]:
    """One after the other, in the order in which they get their turn."""
    order = []
    while (build := queue.next()) is not None:
        order.append(build)
        queue.remove(build.id)
    return order


def test_organizations_take_turns_however_many_builds_one_has() -> None:
    queue = Queue(concurrency=1, most=100)
    for number in range(5):
        queue.add(a_build(org="busy", app=f"busy-{number}"))
    queue.add(a_build(org="small", app="small"))
    assert [build.org_id for build in run_all(queue)] == ["busy", "small", "busy", "busy", "busy", "busy"]


def test_who_comes_while_others_build_waits_for_one_of_them_only() -> None:
    queue = Queue(concurrency=1, most=100)
    for number in range(3):
        queue.add(a_build(org="busy", app=f"busy-{number}"))
    first = queue.next()
    queue.add(a_build(org="small", app="small"))
    assert first is not None
    queue.remove(first.id)
    following = queue.next()
    assert following is not None
    assert following.org_id == "small"


def test_builds_of_one_app_run_in_order_and_never_together() -> None:
    queue = Queue(concurrency=2, most=100)
    first, second, other = a_build(app="one"), a_build(app="one"), a_build(app="two")
    for build in (first, second, other):
        queue.add(build)
    assert queue.next() == first
    assert queue.next() == other
    assert queue.next() is None
    queue.remove(other.id)
    assert queue.next() is None, "the app still builds"
    queue.remove(first.id)
    assert queue.next() == second


def test_no_more_run_than_are_allowed() -> None:
    queue = Queue(concurrency=2, most=100)
    for number in range(4):
        queue.add(a_build(app=f"app-{number}"))
    assert [queue.next() is not None for _ in range(3)] == [True, True, False]


def test_a_build_that_waits_can_be_taken_out() -> None:
    queue = Queue(concurrency=1, most=100)
    first, second = a_build(app="one"), a_build(app="two")
    queue.add(first)
    queue.add(second)
    assert queue.place(second.id) == 1
    queue.remove(first.id)
    assert run_all(queue) == [second]


def test_one_organization_cannot_fill_the_queue() -> None:
    queue = Queue(concurrency=1, most=2)
    queue.add(a_build(org="busy"))
    queue.add(a_build(org="busy"))
    with pytest.raises(Exhausted, match="2 builds"):
        queue.add(a_build(org="busy"))
    queue.add(a_build(org="small"))
