"""Several programs in one Machine, as a config asks for them."""

from __future__ import annotations

from typing import Any

import pytest

from caddisfly.model.config import Config
from caddisfly.model.errors import Problem
from caddisfly.model.program import Program, RestartPolicy, StopConfig

CHECK = {"name": "up", "interval": 5, "tcp": {"port": 5432}}


def programs(**config: Any) -> tuple[Program, ...]:
    return Config.parse({"image": "nginx", **config}).programs


def containers(*members: dict[str, Any]) -> tuple[Program, ...]:
    return programs(containers=[{"name": name, **one} for name, one in zip("abcdef", members, strict=False)])


def test_most_machines_run_one() -> None:
    assert programs() == ()


def test_a_container_without_an_image_runs_the_machines() -> None:
    assert [one.image for one in containers({}, {"image": "redis"})] == ["nginx", "redis"]


def test_a_container_is_what_it_says() -> None:
    (one,) = containers(
        {
            "user": "app",
            "env": {"A": "1"},
            "env_from": [{"env_var": "B", "field_ref": "region"}],
            "restart": {"policy": "always"},
            "stop": {"signal": "SIGTERM"},
        }
    )
    assert (one.user, one.env, one.env_from) == ("app", {"A": "1"}, {"B": "region"})
    assert (one.restart, one.stop) == (RestartPolicy("always"), StopConfig("SIGTERM"))
    assert not one.essential


def test_any_process_takes_the_machine_with_it() -> None:
    found = programs(processes=[{"cmd": ["a"]}, {"cmd": ["b"]}])
    assert [(one.name, one.image, one.essential, one.restart.policy) for one in found] == [
        ("0", "", True, "no"),
        ("1", "", True, "no"),
    ]


def test_the_checks_of_containers_are_among_those_of_the_machine() -> None:
    wire = {"image": "nginx", "containers": [{"name": "db", "healthchecks": [{**CHECK, "failure_threshold": 3}]}]}
    (check,) = Config.parse(wire).checks
    assert (check.name, check.container, check.port) == ("db/up", "db", 5432)
    assert (check.interval_s, check.timeout_s, check.passes, check.failures) == (5.0, 2.0, 1, 3)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"name": "../x"}, "containers[0].name"),
        ({"name": "a", "env": {"A": 1}}, "containers[0].env.A"),
        ({"name": "a", "exec": "ls"}, "containers[0].exec"),
        ({"name": "a", "env_from": [{"env_var": "A", "field_ref": "mood"}]}, "field_ref"),
        ({"name": "a", "restart": {"policy": "maybe"}}, "containers[0].restart.policy"),
        ({"name": "a", "stop": {"timeout": "1h"}}, "containers[0].stop.timeout"),
        ({"name": "a", "depends_on": [{"name": "b", "condition": "happy"}]}, "no container 'b'"),
        ({"name": "a", "depends_on": [{"name": "a"}]}, "wait for each other"),
        ({"name": "a", "healthchecks": [{"name": "x"}]}, "exactly one of http, tcp, exec"),
        ({"name": "a", "healthchecks": [{"tcp": {}}]}, "missing config.containers[0].healthchecks[0].tcp.port"),
        ({"name": "a", "healthchecks": [{"exec": {}}]}, "exec.command"),
        ({"name": "a", "healthchecks": [{**CHECK, "interval": "5s"}]}, "healthchecks[0].interval"),
        ({"name": "a", "healthchecks": [CHECK, CHECK]}, "two have the same name"),
        ({"name": "a", "healthchecks": [{**CHECK, "unhealthy": "reboot"}]}, "unhealthy"),
    ],
)
def test_a_wrong_member_is_named(members: dict[str, Any], words: str) -> None:
    with pytest.raises(Problem) as caught:
        Config.parse({"image": "nginx", "containers": [members]})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"containers": [{"name": "a"}], "processes": [{}]}, "exclude each other"),
        ({"image": "", "containers": [{"name": "a"}]}, "missing image of container a"),
        ({"processes": [{}] * 17}, "at most 16"),
        (
            {"containers": [{"name": "a"}, {"name": "b", "depends_on": [{"name": "a", "condition": "healthy"}]}]},
            "no hea",
        ),
        (
            {
                "containers": [
                    {"name": "a", "restart": {"policy": "always"}},
                    {"name": "b", "depends_on": [{"name": "a", "condition": "exited_successfully"}]},
                ]
            },
            "a is restarted always",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(Problem) as caught:
        Config.parse({"image": "nginx", **config})
    assert words in str(caught.value)
