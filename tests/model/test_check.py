"""Checks in a config: names, defaults and bounds; wrong ones are refused in words that name the member."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from caddisfly.model.check import CRITICAL, PASSING, Check, CheckConfig
from caddisfly.model.config import Config
from caddisfly.model.errors import InvalidArgument


def checks_of(**members: Any) -> tuple[CheckConfig, ...]:
    return Config.parse({"image": "nginx", **members}).checks


def test_top_level_checks_have_the_name_of_their_key_and_the_usual_times() -> None:
    assert checks_of(checks={"up": {"type": "tcp", "port": 5432}}) == (
        CheckConfig(name="up", type="tcp", port=5432, interval_s=15, timeout_s=2, grace_s=1, readiness=False),
    )


def test_checks_of_services_are_counted_through_and_ask_the_internal_port() -> None:
    http = {"type": "http", "path": "/health", "method": "post"}
    made = checks_of(
        services=[
            {"protocol": "tcp", "internal_port": 8080, "checks": [{"type": "tcp"}, http]},
            {"protocol": "tcp", "internal_port": 9000, "checks": [{"type": "tcp", "port": 9001}]},
        ]
    )
    assert [check.name for check in made] == [
        "servicecheck-00-tcp-8080",
        "servicecheck-01-http-8080",
        "servicecheck-02-tcp-9001",
    ]
    assert [check.port for check in made] == [8080, 8080, 9001]
    assert [check.internal_port for check in made] == [8080, 8080, 9000]
    assert all(check.readiness for check in made), "a service's checks decide about its requests"
    assert (made[1].method, made[1].path) == ("POST", "/health")


def test_everything_that_a_check_can_say() -> None:
    (check,) = checks_of(
        checks={
            "up": {
                "type": "http",
                "kind": "readiness",
                "port": 443,
                "protocol": "https",
                "interval": 5_000_000_000,
                "timeout": "500ms",
                "grace_period": "0s",
                "tls_skip_verify": True,
                "tls_server_name": "example.com",
                "headers": [{"name": "Host", "values": ["a.example"]}, {"name": "X-A", "values": ["1", "2"]}],
            }
        }
    )
    assert check == CheckConfig(
        name="up",
        type="http",
        port=443,
        readiness=True,
        interval_s=5,
        timeout_s=0.5,
        grace_s=0,
        tls=True,
        tls_skip_verify=True,
        tls_server_name="example.com",
        headers=(("Host", "a.example"), ("X-A", "1"), ("X-A", "2")),
    )


def test_longer_times_act_as_the_longest_and_come_back_as_sent() -> None:
    times = {"interval": "1h0m0s", "timeout": "10m0s", "grace_period": "5m0s"}
    sent = {
        "checks": {"up": {"type": "tcp", "port": 1, **times}},
        "services": [{"protocol": "tcp", "internal_port": 1, "checks": [{"type": "tcp", **times}]}],
    }
    config = Config.parse({"image": "nginx", **copy.deepcopy(sent)})
    top, service = config.checks
    assert (top.interval_s, top.timeout_s, top.grace_s) == (3600, 60, 300)
    assert (service.interval_s, service.timeout_s, service.grace_s) == (60, 60, 60)
    assert config.wire["checks"] == sent["checks"]
    assert config.wire["services"][0]["checks"] == [{"type": "tcp", **times}]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"port": None}, "missing config.checks.up.port"),
        ({"port": 70000}, "config.checks.up.port, must be from 1 to 65535"),
        ({"type": None}, "missing config.checks.up.type"),
        ({"type": "exec"}, "config.checks.up.type, 'exec' is not one of tcp, http"),
        ({"kind": "liveness"}, "config.checks.up.kind"),
        ({"interval": "900ms"}, "config.checks.up.interval, must be at least 1s, got 900ms"),
        ({"interval": 15}, "config.checks.up.interval, must be at least 1s, got 15ns"),
        ({"interval": "soon"}, "config.checks.up.interval"),
        ({"interval": True}, "config.checks.up.interval"),
        ({"timeout": "0s"}, "config.checks.up.timeout"),
        ({"grace_period": "-1s"}, "config.checks.up.grace_period, must be at least 0s, got -1s"),
        ({"protocol": "gopher"}, "config.checks.up.protocol"),
        ({"method": "GET / HTTP/1.1\r\nX: y"}, "config.checks.up.method"),
        ({"path": "health"}, "config.checks.up.path"),
        ({"path": "/a b"}, "config.checks.up.path"),
        ({"path": "/\r\nX: y"}, "config.checks.up.path"),
        ({"tls_skip_verify": "yes"}, "config.checks.up.tls_skip_verify"),
        ({"tls_server_name": "a b"}, "config.checks.up.tls_server_name"),
        ({"headers": {"Host": "x"}}, "config.checks.up.headers, must be a list"),
        ({"headers": [{"values": ["x"]}]}, "config.checks.up.headers[0].name"),
        ({"headers": [{"name": "X:", "values": ["x"]}]}, "config.checks.up.headers[0].name"),
        ({"headers": [{"name": "X", "values": "x"}]}, "config.checks.up.headers[0].values"),
        ({"headers": [{"name": "X", "values": ["a\r\nb: c"]}]}, "cannot be sent in a header"),
        ({"headers": [{"name": "X", "values": ["€"]}]}, "cannot be sent in a header"),
    ],
)
def test_a_wrong_check_is_named(members: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        checks_of(checks={"up": {"type": "http", "port": 80, **members}})
    assert words in str(caught.value)


def test_too_many_checks_are_refused() -> None:
    many = {f"c{number}": {"type": "tcp", "port": 80} for number in range(33)}
    with pytest.raises(InvalidArgument, match="too many checks in config, at most 32, got 33"):
        checks_of(checks=many)


def test_a_result_keeps_only_its_own_service_from_requests() -> None:
    result = Check(name="c", status=CRITICAL, output="", updated_at="", readiness=True, internal_port=80)
    assert result.keeps_from(80)
    assert not result.keeps_from(81)
    everywhere = Check(name="c", status=CRITICAL, output="", updated_at="", readiness=True)
    assert everywhere.keeps_from(81)
    passing = Check(name="c", status=PASSING, output="", updated_at="", readiness=True)
    assert not passing.keeps_from(80)
    informing = Check(name="c", status=CRITICAL, output="", updated_at="")
    assert not informing.keeps_from(80)
    assert Check.from_record({**result.to_record(), "future": 1}) == result
