"""Sandboxes of several programs, on every driver."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caddisfly.host.drivers.driver import STDOUT, Attach, Command, Ended, Member, Running, Sandbox, Sizable
from caddisfly.host.drivers.notes import FileNotes
from caddisfly.host.drivers.pods import Pods
from caddisfly.model.duration import Duration
from caddisfly.model.errors import FailedPrecondition, InvalidArgument, Problem
from caddisfly.model.program import HEALTHY, SUCCEEDED, RestartPolicy, StopConfig
from tests.conftest import eventually
from tests.drivers.conftest import Bench, soon

FOREVER = "while :; do sleep 1; done"


class PodBench:
    """Pods over the driver of a bench."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.told: list[str] = []
        self.pods = self._anew()

    def _anew(self) -> Pods:
        async def tell(id: str) -> None:
            self.told.append(id)

        return Pods(self.bench.driver, notes=FileNotes(self.bench.directory / "pods"), tell=tell)

    async def restarted(self) -> Pods:
        """The same pods in the hands of another agent."""
        await self.pods.close()
        await self.bench.restarted()
        self.pods = self._anew()
        return self.pods

    def pod(self, *members: Member) -> Sandbox:
        return replace(self.bench.sandbox(), members=members)

    def member(self, name: str, line: str = FOREVER, **changes: Any) -> Member:
        sandbox = self.bench.sandbox(line)
        self.bench.made.remove(sandbox.id)  # it gets another id
        sandbox = replace(sandbox, log=sandbox.log.with_name(f"{sandbox.id}-{name}.log"))
        policy = RestartPolicy("no")
        made = Member(name=name, sandbox=sandbox, restart=policy, stop=None, after=(), essential=False)
        return replace(made, **changes)

    async def running(self) -> set[str]:
        known = [id for id in await self.bench.driver.known() if id.count(".") == 2]
        return {id for id in known if isinstance(await self.bench.driver.recover(id), Running)}

    def log_of(self, member: Member) -> str:
        try:
            return member.sandbox.log.read_text()
        except FileNotFoundError:
            return ""

    def when(self, member: Member, word: str) -> str:
        """The time of its line with this word, in a form that sorts."""
        return next(line.split()[0] for line in self.log_of(member).splitlines() if word in line)


@pytest.fixture
async def pods(bench: Bench) -> AsyncIterator[PodBench]:
    if "several" not in bench.abilities:
        pytest.skip("this driver declares that it runs one program")
    made = PodBench(bench)
    yield made
    for id in bench.made:
        await made.pods.destroy(id)
    await made.pods.close()


@pytest.fixture
def real(pods: PodBench) -> PodBench:
    """With programs that really run."""
    if "programs" not in pods.bench.abilities:
        pytest.skip("this driver declares that it runs no programs")
    return pods


async def test_all_run_side_by_side_and_go_without_a_trace(pods: PodBench) -> None:
    pod = pods.pod(pods.member("a"), pods.member("b"))
    await pods.pods.start(pod)
    await pods.pods.start(pod)
    await eventually(lambda: pods.pods.states(pod.id) == (("a", "started"), ("b", "started")))
    assert len(await pods.running()) == 2
    assert await pods.pods.known() == {pod.id}
    await eventually(lambda: pod.id in pods.told)
    await pods.pods.destroy(pod.id)
    assert await pods.pods.known() == await pods.bench.driver.known() == frozenset()
    assert not list((pods.bench.directory / "pods").iterdir())


async def test_another_agent_finds_all_of_them_and_starts_none_twice(pods: PodBench) -> None:
    pod = pods.pod(pods.member("a"), pods.member("b"))
    await pods.pods.start(pod)
    before = await pods.running()
    again = await pods.restarted()
    assert isinstance(await again.recover(pod.id), Running)
    assert again.states(pod.id) == (("a", "started"), ("b", "started"))
    assert await pods.running() == before
    await again.kill(pod.id)
    assert (await soon(again.wait(pod.id))).exit_code == 137
    assert isinstance(await again.recover(pod.id), Ended)


async def test_a_pod_that_an_agent_died_over_while_it_began_counts_as_never_started(pods: PodBench) -> None:
    pod = pods.pod(pods.member("a"), pods.member("b", after=(("a", SUCCEEDED),)))
    await pods.pods.start(pod)
    state = pods.bench.directory / "pods" / pod.id / "state.json"
    state.write_text(state.read_text().replace('"begun": true', '"begun": false'))
    again = await pods.restarted()
    assert await again.recover(pod.id) is None
    await again.destroy(pod.id)
    assert await again.known() == frozenset()


async def test_one_that_ends_is_started_again_by_its_own_policy(pods: PodBench) -> None:
    always = pods.member("a", restart=RestartPolicy("always"))
    pod = pods.pod(always, pods.member("b"))
    await pods.pods.start(pod)
    (first, other) = sorted(await pods.running())
    await pods.bench.driver.kill(first)

    async def replaced() -> bool:
        return len(await pods.running()) == 2 and first not in await pods.running()

    await eventually(replaced)
    assert other in await pods.running()
    again = await pods.restarted()
    assert isinstance(await again.recover(pod.id), Running)
    assert other in await pods.running()


async def test_one_that_ended_meanwhile_is_started_again_by_the_next_agent(pods: PodBench) -> None:
    pod = pods.pod(pods.member("a", restart=RestartPolicy("always")), pods.member("b"))
    await pods.pods.start(pod)
    first, _ = sorted(await pods.running())
    await pods.pods.close()
    await pods.bench.driver.kill(first)
    await soon(pods.bench.driver.wait(first))
    again = await pods.restarted()
    assert isinstance(await again.recover(pod.id), Running)

    async def replaced() -> bool:
        return len(await pods.running()) == 2 and first not in await pods.running()

    await eventually(replaced)


async def test_the_first_essential_one_that_ends_takes_the_others_with_it(pods: PodBench) -> None:
    pod = pods.pod(pods.member("a", essential=True), pods.member("b", essential=True))
    await pods.pods.start(pod)
    first, _ = sorted(await pods.running())
    await pods.bench.driver.kill(first)
    assert (await soon(pods.pods.wait(pod.id))).exit_code == 137
    assert await pods.running() == set()


async def test_a_stop_goes_the_order_backwards_with_each_ones_own_signal(real: PodBench) -> None:
    trap = "trap 'echo bye; exit 0' {}; echo up; while :; do sleep 0.05; done"
    first = real.member("first", trap.format("INT"))
    second = real.member(
        "second",
        trap.format("USR1"),
        after=(("first", "started"),),
        stop=StopConfig("SIGUSR1", Duration.of_seconds(5)),
    )
    stubborn = real.member("stubborn", "trap '' TERM INT; echo up; " + FOREVER, after=(("second", "started"),))
    stubborn = replace(stubborn, stop=StopConfig("SIGTERM", Duration.of_seconds(1)))
    pod = real.pod(first, second, stubborn)
    await real.pods.start(pod)
    await eventually(lambda: all("up" in real.log_of(one) for one in pod.members))
    await real.pods.stop(pod.id, signal.SIGINT)
    assert (await soon(real.pods.wait(pod.id))).exit_code == 137  # the stubborn one's
    assert real.when(second, "bye") < real.when(first, "bye")


async def test_conditions_hold_a_program_back(real: PodBench) -> None:
    setup = real.member("setup", "sleep 0.3; echo done; exit 0")
    after = real.member("after", "echo begun; " + FOREVER, after=(("setup", SUCCEEDED),))
    well = real.member("well", after=(("after", HEALTHY),))
    pod = real.pod(setup, after, well)
    await real.pods.start(pod)
    await eventually(lambda: dict(real.pods.states(pod.id))["after"] == "started")
    await eventually(lambda: "begun" in real.log_of(after))
    assert real.when(setup, "done") < real.when(after, "begun")
    assert dict(real.pods.states(pod.id)) == {"setup": "stopped", "after": "started", "well": "created"}
    with pytest.raises(FailedPrecondition, match="container not running"):
        await real.pods.execute(pod.id, Command(argv=("/bin/true",), timeout_s=5, container="well"))
    real.pods.heard(pod.id, {"after": True})
    await eventually(lambda: dict(real.pods.states(pod.id))["well"] == "started")


async def test_a_failed_condition_ends_the_pod_with_that_failure(real: PodBench) -> None:
    pod = real.pod(real.member("setup", "exit 9"), real.member("after", after=(("setup", SUCCEEDED),)))
    await real.pods.start(pod)
    assert (await soon(real.pods.wait(pod.id))).exit_code == 9
    assert await real.running() == set()


async def test_retries_come_to_an_end(real: PodBench) -> None:
    failing = real.member("failing", "echo again; exit 4", restart=RestartPolicy("on-failure", 2))
    pod = real.pod(failing, real.member("good", "exit 0"))
    await real.pods.start(pod)
    assert (await soon(real.pods.wait(pod.id))).exit_code == 4
    assert real.log_of(failing).count("again") == 3


async def test_a_program_that_is_not_there_fails_the_start(real: PodBench) -> None:
    broken = real.member("broken")
    broken = replace(broken, sandbox=replace(broken.sandbox, root=Path("/nosuchroot")))
    pod = real.pod(real.member("fine"), broken)
    with pytest.raises(Problem):
        await real.pods.start(pod)
    assert await real.pods.recover(pod.id) is None
    await real.pods.destroy(pod.id)
    assert await real.bench.driver.known() == frozenset()


async def test_limits_hold_for_all_together(real: PodBench) -> None:
    if real.bench.driver.name.endswith("runsc"):
        pytest.skip("gVisor counts a program's memory late")
    greedy = real.member("greedy", "x=a; while :; do x=$x$x; done")
    pod = real.pod(greedy, real.member("modest"))
    await real.pods.start(pod)
    first = f"{pod.id}.0.1"
    exit = await soon(real.bench.driver.wait(first))
    assert exit.oom_killed
    driver = real.bench.driver
    assert isinstance(driver, Sizable)
    assert await driver.memory_limit(pod.id) == 128
    assert (await driver.stats(pod.id)).memory_bytes < 128 << 20
    modest = [id for id in await real.running() if ".1." in id]
    assert len(modest) == 1


async def test_commands_run_in_the_container_they_name(real: PodBench) -> None:
    a, b = real.member("a"), real.member("b")
    b = replace(b, sandbox=replace(b.sandbox, env=("PATH=/bin", "GREETING=from b")))
    pod = real.pod(a, b)
    await real.pods.start(pod)

    async def said(container: str) -> bytes:
        command = Command(argv=("/bin/sh", "-c", "echo $GREETING"), timeout_s=20, container=container)
        return (await real.pods.execute(pod.id, command)).stdout

    assert [await said(name) for name in ("", "a", "b")] == [b"hi\n", b"hi\n", b"from b\n"]
    with pytest.raises(InvalidArgument, match="there are a, b"):
        await said("c")
    session = await real.pods.attach(pod.id, Attach(argv=("/bin/sh", "-c", "echo $GREETING"), container="b"))
    assert await session.read() == (STDOUT, b"from b\n")
    await session.close()
    lone = real.bench.sandbox()
    await real.pods.start(lone)
    with pytest.raises(InvalidArgument, match="no container"):
        await real.pods.execute(lone.id, Command(argv=("/bin/true",), timeout_s=5, container="a"))


async def test_what_is_not_well_is_stopped_and_its_policy_starts_it_again(real: PodBench) -> None:
    line = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"
    sick = real.member("sick", line, restart=RestartPolicy("always"))
    pod = real.pod(sick)
    await real.pods.start(pod)
    await eventually(lambda: real.log_of(sick).count("up") == 1)
    await real.pods.end_one(pod.id, "sick")
    await eventually(lambda: real.log_of(sick).count("up") == 2)


async def test_a_signal_reaches_all(real: PodBench) -> None:
    line = "trap 'echo got' HUP; echo up; while :; do sleep 0.05; done"
    members = (real.member("a", line), real.member("b", line))
    pod = real.pod(*members)
    await real.pods.start(pod)
    await eventually(lambda: all("up" in real.log_of(one) for one in members))
    await real.pods.signal(pod.id, signal.SIGHUP)
    await eventually(lambda: all("got" in real.log_of(one) for one in members))


async def test_a_destroy_waits_for_a_start_that_is_under_way(pods: PodBench) -> None:
    pod = pods.pod(pods.member("a"), pods.member("b", after=(("a", "started"),)))
    await pods.pods.start(pod)
    await asyncio.sleep(0)  # the second is being started now
    await pods.pods.destroy(pod.id)
    assert await pods.bench.driver.known() == frozenset()
