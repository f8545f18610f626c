"""`config` comes back with the meaning it was sent with, and wrong ones are refused in words that name the member."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caddisfly.model.config import Config
from caddisfly.model.errors import InvalidArgument, Problem
from caddisfly.model.guest import KINDS, Guest

SMALL = {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}


def parsed(**members: Any) -> dict[str, Any]:
    return dict(Config.parse({"image": "nginx", **members}).wire)


def test_an_image_is_enough_and_the_size_is_filled_in() -> None:
    assert parsed() == {"image": "nginx", "guest": SMALL, "init": {}, "dns": {}}


def test_nulls_are_absent_and_members_it_does_not_know_come_back() -> None:
    wire = parsed(
        init={"cmd": None},
        guest={"cpu_kind": "performance", "cpus": 2, "memory_mb": 4096, "gpus": None},
        future={"a": [1]},
    )
    assert wire["guest"] == {"cpu_kind": "performance", "cpus": 2, "memory_mb": 4096}
    assert wire["init"] == {}
    assert wire["future"] == {"a": [1]}


@pytest.mark.parametrize(
    ("sent", "kept"), [("off", False), ("stop", True), ("suspend", "suspend"), (True, True), (False, False)]
)
def test_autostop_changes_its_type_on_the_way_out(sent: object, kept: object) -> None:
    (service,) = parsed(services=[{"protocol": "tcp", "internal_port": 80, "autostop": sent}])["services"]
    assert service["autostop"] == kept
    assert service["force_instance_key"] is None


def test_durations_are_normalised() -> None:
    wire = parsed(checks={"up": {"type": "tcp", "port": 1, "interval": 60_000_000_000, "timeout": "90s"}})
    assert wire["checks"]["up"] == {"type": "tcp", "port": 1, "interval": "1m0s", "timeout": "1m30s"}


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"image": ""}, "missing config.image"),
        ({"image": 5}, "config.image"),
        ({"env": {"A": 1}}, "config.env.A"),
        ({"init": {"tty": "yes"}}, "config.init.tty"),
        ({"init": {"swap_size_mb": -1}}, "config.init.swap_size_mb"),
        ({"init": {"kernel_args": "quiet"}}, "config.init.kernel_args"),
        ({"guest": {**SMALL, "kernel_args": [1]}}, "config.guest.kernel_args"),
        ({"rootfs": {"persist": "sometimes"}}, "config.rootfs.persist"),
        ({"rootfs": {"size_gb": 51}}, "config.rootfs.size_gb"),
        ({"rootfs": {"size_gb": 1.5}}, "config.rootfs.size_gb"),
        ({"rootfs": {"size_gb": 2, "fs_size_gb": 3}}, "config.rootfs.fs_size_gb"),
        ({"rootfs": {"fs_type": "btrfs"}}, "config.rootfs.fs_type"),
        ({"guest": {**SMALL, "persist_rootfs": 4}}, "config.guest.persist_rootfs"),
        ({"env": {"A=B": "x"}}, "config.env"),
        ({"env": {"A": "x\0y"}}, "NUL"),
        ({"metadata": {"a": True}}, "config.metadata.a"),
        ({"guest": {"cpu_kind": "gpu"}}, "invalid config.guest.cpu_kind"),
        ({"guest": {"cpus": 3, "memory_mb": 768}}, "invalid config.guest.cpus"),
        ({"guest": {"cpu_kind": "performance", "cpus": 1, "memory_mb": 1024}}, "minimum required 2048 MiB"),
        ({"guest": {"memory_mb": 4096}}, "cannot exceed 2048 MiB"),
        ({"guest": {"memory_mb": 300}}, "multiple of 256"),
        ({"size": "huge"}, "config.size"),
        ({"size": "shared-cpu-1x", "guest": SMALL}, "exclude each other"),
        ({"restart": {"policy": "sometimes"}}, "config.restart.policy"),
        ({"stop_config": {"signal": "SIGFOO"}}, "config.stop_config.signal"),
        ({"stop_config": {"timeout": "301s"}}, "config.stop_config.timeout"),
        ({"services": [{"internal_port": 0}]}, "config.services[0].internal_port"),
        ({"services": [{"internal_port": 80, "ports": [{"port": 80, "force_https": True}]}]}, "no http handler"),
        ({"services": [{"internal_port": 80, "ports": [{"handlers": ["ftp"]}]}]}, "handlers"),
        ({"services": [{"autostop": ["stop"]}]}, "config.services[0].autostop"),
        ({"mounts": [{"path": "/"}]}, "config.mounts[0].path"),
        ({"mounts": [{"path": "/a"}, {"path": "/b"}]}, "at most one"),
        ({"files": [{"guest_path": "x", "raw_value": ""}]}, "guest_path"),
        ({"files": [{"guest_path": "/x/../y", "raw_value": ""}]}, "guest_path"),
        ({"files": [{"guest_path": "/x", "raw_value": "***"}]}, "not base64"),
        ({"files": [{"guest_path": "/x"}]}, "exactly one of"),
        ({"files": [{"guest_path": "/x", "image_config": "nginx", "raw_value": ""}]}, "exactly one of"),
        ({"files": [{"guest_path": "/x", "image_config": ""}]}, "config.files[0].image_config"),
        ({"files": [{"guest_path": "/x", "image_config": ["nginx"]}]}, "config.files[0].image_config"),
        ({"auto_destroy": "yes"}, "config.auto_destroy"),
        ({"schedule": "yearly"}, "config.schedule"),
        ({"standbys": ["web"]}, "config.standbys[0]"),
        ({"standbys": ["1" * 14], "services": [{"protocol": "tcp", "internal_port": 80}]}, "without services"),
    ],
)
def test_a_wrong_member_is_named(members: dict[str, Any], words: str) -> None:
    with pytest.raises(Problem) as caught:
        Config.parse({"image": "nginx", **members})
    assert words in str(caught.value)


@pytest.mark.parametrize("raw", [None, [], "nginx", 5])
def test_a_config_that_is_no_object_is_refused(raw: object) -> None:
    with pytest.raises(InvalidArgument, match="missing config"):
        Config.parse(raw)


@pytest.mark.parametrize(
    ("init", "argv"),
    [
        ({}, ("/entry", "arg")),
        ({"cmd": ["x"]}, ("/entry", "x")),
        ({"entrypoint": ["/mine"]}, ("/mine",)),
        ({"entrypoint": ["/mine"], "cmd": ["x"]}, ("/mine", "x")),
        ({"exec": ["/all", "of", "it"], "cmd": ["x"]}, ("/all", "of", "it")),
    ],
)
def test_init_overrides_the_images_command(init: dict[str, Any], argv: tuple[str, ...]) -> None:
    config = Config.parse({"image": "nginx", "init": init})
    assert config.argv(entrypoint=("/entry",), cmd=("arg",)) == argv


guests = st.sampled_from(sorted(KINDS)).flatmap(
    lambda kind: st.sampled_from(KINDS[kind].counts).flatmap(
        lambda cpus: st.integers(KINDS[kind].min_mb, KINDS[kind].max_mb).map(
            lambda mb: {
                "cpu_kind": kind,
                "cpus": cpus,
                "memory_mb": mb // KINDS[kind].step_mb * KINDS[kind].step_mb * cpus,
            }
        )
    )
)
text = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))
configs = st.fixed_dictionaries(
    {"image": st.just("nginx:1")},
    optional={
        "guest": guests,
        "env": st.dictionaries(st.text("ABC_", min_size=1), text),
        "metadata": st.dictionaries(st.text("abc_", min_size=1), text),
        "auto_destroy": st.booleans(),
        "restart": st.fixed_dictionaries({"policy": st.sampled_from(["no", "always", "on-failure"])}),
        "stop_config": st.fixed_dictionaries({"timeout": st.integers(0, 300).map(lambda s: f"{s}s")}),
        "unheard_of": st.recursive(st.booleans() | st.integers(1) | text, st.lists, max_leaves=5),
    },
)


@given(configs)
def test_what_comes_back_is_a_fixed_point(raw: dict[str, Any]) -> None:
    once = dict(Config.parse(copy.deepcopy(raw)).wire)
    assert dict(Config.parse(copy.deepcopy(once)).wire) == once


@given(guests)
def test_every_size_in_range_is_a_guest(wire: dict[str, Any]) -> None:
    assert Guest.from_wire(wire).to_wire() == wire


@pytest.mark.parametrize(
    ("members", "persist"),
    [
        ({}, "never"),
        ({"rootfs": {"persist": "restart"}}, "restart"),
        ({"rootfs": {"persist": "none"}}, "never"),
        ({"guest": {**SMALL, "persist_rootfs": 3}}, "always"),
        ({"guest": {**SMALL, "persist_rootfs": 0}}, "never"),
        ({"guest": {**SMALL, "persist_rootfs": "always"}, "rootfs": {"persist": "never"}}, "never"),
    ],
)
def test_what_the_root_outlives_has_two_spellings(members: dict[str, Any], persist: str) -> None:
    assert Config.parse({"image": "nginx", **members}).persist == persist


def test_the_file_systems_size_goes_before_the_disks() -> None:
    assert Config.parse({"image": "nginx", "rootfs": {"size_gb": 4, "fs_size_gb": 2}}).root_size_mb == 2048
    assert Config.parse({"image": "nginx", "rootfs": {"persist": "always"}}).root_size_mb == 0


def test_images_whose_configs_are_files_are_among_its_images() -> None:
    file = {"guest_path": "/x", "image_config": "redis:7"}
    config = Config.parse(
        {
            "image": "nginx",
            "files": [file],
            "containers": [
                {
                    "name": "a",
                    "image": "busybox",
                    "files": [{"guest_path": "/y", "image_config": "postgres", "mode": 384}],
                },
            ],
        }
    )
    assert config.images == {"nginx", "busybox", "redis:7", "postgres"}
    assert config.file_images == {"redis:7", "postgres"}
    (one,) = config.image_config_files
    assert (one.guest_path, one.image, one.mode) == ("/x", "redis:7", 0o644)
    (other,) = config.programs[0].image_config_files
    assert (other.image, other.mode) == ("postgres", 0o600)
