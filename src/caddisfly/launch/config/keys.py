"""Every key that a fly.toml may have, the old spellings among them, and what was meant by one that is not there.

flyctl drops what it does not know, so a misspelt section is a section that is missing. Here it is named, with its line.
What a value must look like is not said here: that is for whoever reads it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from caddisfly.launch.config.source import Key, Source, dotted


@dataclass(frozen=True, slots=True)
class Anything:
    """A value, or a table whose names are the user's own."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table, or a list of such tables: flyctl takes either in most places, and we in all."""

    keys: Mapping[str, Shape]


@dataclass(frozen=True, slots=True)
class Named:
    """A table of tables under names of the user's; or a list of such tables, each with its `name`."""

    inside: Table


Shape = Anything | Table | Named


@dataclass(frozen=True, slots=True)
class Unknown:
    """`meant` is the nearest key that there is, empty when none is near."""

    key: Key
    meant: str

    def text(self, source: Source) -> str:
        """One line for people: `fly.toml:7: unknown key http_service.internl_port; did you mean internal_port?`"""
        hint = f"; did you mean {self.meant}?" if self.meant else ""
        return f"{source.where(self.key)}: unknown key {dotted(self.key)}{hint}"


def unknown(source: Source) -> list[Unknown]:
    """In the order of the file."""
    return list(_look(source.values, _TOP, ()))


def _look(value: Any, shape: Shape, key: Key) -> Iterator[Unknown]:
    if isinstance(shape, Anything):
        return
    if isinstance(value, list):
        inside = shape.inside if isinstance(shape, Named) else shape
        for number, entry in enumerate(value):
            yield from _look(entry, inside, (*key, number))
    elif isinstance(value, Mapping):
        for name, child in value.items():
            known = shape.inside if isinstance(shape, Named) else shape.keys.get(name)
            if known is not None:
                yield from _look(child, known, (*key, name))
            elif isinstance(shape, Table):
                near = difflib.get_close_matches(name, shape.keys, n=1, cutoff=0.6)
                yield Unknown((*key, name), near[0] if near else "")


def _keys(names: str, **more: Shape) -> Table:
    return Table(dict.fromkeys(names.split(), Anything()) | more)


_TLS = _keys("alpn versions default_self_signed")
_HTTP = _keys(
    "compress h2_backend idle_timeout headers_read_timeout",
    response=_keys("pristine headers"),
    replay_cache=_keys("path_prefix ttl_seconds type name allow_bypass"),
)
_CONCURRENCY = _keys("type soft_limit hard_limit")
_TIMES = "interval timeout grace_period"
_HTTP_CHECK = f"{_TIMES} method path protocol tls_skip_verify tls_server_name headers"
_MACHINE_CHECK = _keys("command image entrypoint kill_signal kill_timeout")
_SERVING = "internal_port auto_stop_machines auto_start_machines min_machines_running processes"
_VM = "size memory memory_mb cpus cpu_kind gpus gpu_kind max_memory_mb kernel_args host_dedication_id persist_rootfs"
_MACHINE = _keys(f"{_VM} processes")
_MOUNT = _keys(
    "source destination processes initial_size snapshot_retention scheduled_snapshots auto_extend_size_threshold "
    "auto_extend_size_increment auto_extend_size_limit"
)
_METRICS = _keys("port path https processes")

_TOP = _keys(
    "app primary_region kill_signal kill_timeout swap_size_mb console_command host_dedication_id machine_config "
    "container env processes",
    build=_keys(
        "image dockerfile build-target build_target args ignorefile builder buildpacks builtin settings compression "
        "compression_level",
        compose=_keys("file"),
    ),
    deploy=_keys(
        "strategy max_unavailable wait_timeout release_command release_command_timeout seed_command",
        release_command_vm=_keys(_VM),
    ),
    experimental=_keys(
        "cmd entrypoint exec kill_timeout metrics_port metrics_path machine_config auto_rollback enable_consul "
        "enable_etcd lazy_load_images allowed_public_ports private_network",
        attached=_keys("", secrets=_keys("export")),
    ),
    http_service=_keys(
        f"{_SERVING} force_https",
        concurrency=_CONCURRENCY,
        tls_options=_TLS,
        http_options=_HTTP,
        checks=_keys(_HTTP_CHECK),
        machine_checks=_MACHINE_CHECK,
    ),
    services=_keys(
        f"{_SERVING} protocol script_checks restart_limit",
        concurrency=_CONCURRENCY,
        ports=_keys(
            "port start_port end_port handlers force_https",
            tls_options=_TLS,
            http_options=_HTTP,
            proxy_proto_options=_keys("version"),
        ),
        http_checks=_keys(_HTTP_CHECK + " restart_limit"),
        tcp_checks=_keys(_TIMES + " restart_limit"),
        machine_checks=_MACHINE_CHECK,
    ),
    checks=Named(_keys(f"{_HTTP_CHECK} name port type processes")),
    machine_checks=_MACHINE_CHECK,
    mounts=_MOUNT,
    mount=_MOUNT,
    vm=_MACHINE,
    compute=_MACHINE,
    computes=_MACHINE,
    restart=_keys("policy retries processes"),
    files=_keys("guest_path local_path secret_name raw_value processes"),
    statics=_keys("guest_path url_prefix tigris_bucket index_document"),
    metrics=_METRICS,
    metric=_METRICS,
)
