"""Which versions of the runtimes are used at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from caddisfly.host.drivers.oci.driver import OciDriver
from caddisfly.host.drivers.oci.runtime import Name, outdated
from caddisfly.model.errors import FailedPrecondition


@pytest.mark.parametrize(
    ("name", "said", "why"),
    [
        ("runc", "runc version 1.1.5+ds1", ""),
        ("runc", "runc version 1.2.0-rc.1", ""),
        ("runc", "runc version 1.1.4", "escape from runc 1.1.4: upgrade it to 1.1.5 or later"),
        ("runc", "runc version 1.0.0-rc93", "escape from runc 1.0.0"),
        ("crun", "crun version 1.8", ""),
        ("crun", "crun version 1.14.3.0.0.0.7-ad4b", ""),
        ("crun", "crun version 0.17", "escape from crun 0.17"),
        ("crun", "crun version UNKNOWN", "crun does not say its version"),
        ("runsc", "runsc version 0.0~20221219.0", ""),
    ],
)
def test_versions_from_which_containers_escape_are_refused(name: Name, said: str, why: str) -> None:
    refusal = outdated(name, said)
    assert why in refusal
    assert bool(refusal) == bool(why)


async def test_a_host_with_an_old_runtime_does_not_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says why and what to do, and runs nothing in it to find out."""
    ran = tmp_path / "ran"
    binary = tmp_path / "runc"
    binary.write_text(f'#!/bin/sh\necho "$@" >> {ran}\necho runc version 1.0.0\n')
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(FailedPrecondition) as refused:
        await OciDriver.choose(run_dir=tmp_path / "run", wanted="runc", timeout_s=5)
    assert "runc: containers are known to escape from runc 1.0.0: upgrade it to 1.1.5 or later" in refused.value.why
    assert [line.split()[-1] for line in ran.read_text().splitlines()] == ["--version"]
