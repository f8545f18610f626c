"""What is made and destroyed for a count, from Machines, a release and what was said before."""

from __future__ import annotations

from typing import Any

import pytest

from caddisfly.launch import config
from caddisfly.launch.fleet.deployed import Deployed
from caddisfly.launch.scale.plan import Flags, GroupPlan, Rules, plan
from caddisfly.launch.scale.size import Size, named
from caddisfly.launch.scale.wanted import Count
from caddisfly.model.errors import InvalidArgument, NotFound, Unimplemented

FILE = """app = 'demo'
primary_region = 'fra'
processes = { web = 'w', worker = 'k' }
env = { A = 1 }
"""
RELEASE = {"id": "01R", "version": 7, "image_ref": "registry.localhost/demo:7@sha256:77"}
SMALL = {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}
BIG = {"cpu_kind": "shared", "cpus": 2, "memory_mb": 1024}


def machine(id: str, *, group: str = "web", region: str = "ams", state: str = "started", **changes: Any) -> Any:
    labels = {"fly_platform_version": "v2", "fly_process_group": group, "fly_release_version": "7", "role": id}
    return {
        "id": id,
        "state": state,
        "region": region,
        "created_at": f"2026-01-01T00:00:{int(id[1:]):02}Z",
        "image_ref": {"registry": "docker.io", "repository": "library/nginx", "tag": "1", "digest": "sha256:11"},
        "config": {"image": "nginx:1", "guest": SMALL, "env": {"A": "1"}, "metadata": labels, **changes},
    }


def standby(id: str, *of: str, **more: Any) -> Any:
    return machine(id, state="stopped", standbys=list(of), env={"FLY_STANDBY_FOR": ",".join(of)}, **more)


def scale(
    *machines: Any,
    count: Count,
    group: str = "web",
    file: str = FILE,
    before: Rules | None = None,
    release: Any = RELEASE,
    **flags: Any,
) -> GroupPlan:
    said = config.text(file, strict=False) if file else None
    image = release["image_ref"] if release else ""
    deployed = Deployed(app="demo", machines=machines, release=release, image=image, config=said)
    (found,) = plan(deployed, {group: count}, Flags(**flags), remembered={group: before} if before else {})
    return found


def regions(found: GroupPlan) -> list[str]:
    return [one.region for one in found.additions]


def gone(found: GroupPlan) -> list[str]:
    return [one.machine["id"] for one in found.removals]


class TestWhere:
    def test_everywhere_the_app_is_the_primary_region_first(self) -> None:
        worker = machine("m2", group="worker", region="fra")
        assert regions(scale(machine("m1"), worker, count=Count(4))) == ["fra", "fra", "ams"]

    def test_the_primary_region_when_there_is_nothing_yet(self) -> None:
        assert regions(scale(count=Count(2))) == ["fra", "fra"]

    def test_only_where_it_was_said_and_the_rest_is_left_alone(self) -> None:
        found = scale(machine("m1"), machine("m2", region="fra"), count=Count(0), regions=("fra",))
        assert gone(found) == ["m2"]
        assert found.after == Rules(count=1, regions=("fra", "ams"))

    def test_a_relative_count_is_about_those_regions(self) -> None:
        members = [machine("m1"), machine("m2"), machine("m3", region="fra")]
        found = scale(*members, count=Count(1, relative=True), regions=("fra",))
        assert (regions(found), found.after.count) == (["fra"], 4)

    def test_what_was_said_before_holds(self) -> None:
        rules = Rules(count=2, regions=("ams", "ord"), max_per_region=2)
        found = scale(machine("m1"), machine("m2"), count=Count(4), before=rules)
        assert regions(found) == ["ord", "ord"]
        assert found.after == Rules(count=4, regions=("ams", "ord"), max_per_region=2)
        with pytest.raises(InvalidArgument, match="fewer than the expected total"):
            scale(count=Count(5), before=rules)
        assert len(scale(count=Count(5), before=rules, max_per_region=-1).additions) == 5
        assert scale(count=Count(5), before=rules, max_per_region=-1).after.max_per_region is None

    def test_without_regions_it_is_about_all_of_the_group_wherever_they_are(self) -> None:
        stray = machine("m2", region="sin")
        found = scale(machine("m1"), stray, count=Count(0), before=Rules(count=2, regions=("ams",)))
        assert sorted(gone(found)) == ["m1", "m2"]
        assert found.after == Rules(count=0, regions=("ams",))

    def test_what_the_file_declares_holds_until_somebody_says_otherwise(self) -> None:
        file = FILE + "caddisfly.groups.web = { regions = ['sin'], max_per_region = 1 }"
        assert regions(scale(count=Count(1), file=file)) == ["sin"]
        with pytest.raises(InvalidArgument):
            scale(count=Count(2), file=file)
        assert regions(scale(count=Count(2), file=file, regions=("ams", "sin"))) == ["ams", "sin"]


class TestNewOnes:
    def test_are_like_the_best_of_their_group_by_digest_and_stand_by_for_nobody(self) -> None:
        older = machine("m1", metadata={"fly_release_version": "6", "fly_process_group": "web"})
        found = scale(older, machine("m2"), standby("m3", "m2"), count=Count(3))
        (new,) = found.additions
        assert new.config["image"] == "docker.io/library/nginx:1@sha256:11"
        assert new.config["metadata"]["role"] == "m2"
        assert "standbys" not in new.config
        assert "FLY_STANDBY_FOR" not in new.config["env"]

    @pytest.mark.parametrize(
        ("vm", "flags", "size"),
        [
            ("", {}, "shared-cpu-1x"),
            ("[[vm]]\nsize = 'shared-cpu-2x'", {}, "shared-cpu-2x"),
            ("[[vm]]\nsize = 'shared-cpu-2x'", {"memory_mb": 1024}, "shared-cpu-2x:1024MB"),
            ("[[vm]]\nsize = 'shared-cpu-2x'", {"size": "performance-1x"}, "performance-1x"),
            ("", {"memory_mb": 512}, "shared-cpu-1x:512MB"),
        ],
    )
    def test_have_the_size_that_flags_or_the_config_say(self, vm: str, flags: Any, size: str) -> None:
        found = scale(machine("m1"), count=Count(2), file=f"{FILE}\n{vm}", size=Size(**flags))
        assert named(found.additions[0].config["guest"]) == size

    def test_carry_nothing_that_is_about_another_machine(self) -> None:
        labels = {"fly_process_group": "web", "caddis_suspended": "running", "safe_to_destroy": "true", "mine": "1"}
        (new,) = scale(machine("m1", metadata=labels), count=Count(2)).additions
        assert new.config["metadata"] == {"fly_process_group": "web", "mine": "1"}

    def test_have_the_variables_that_were_said(self) -> None:
        assert scale(machine("m1"), count=Count(2), env={"B": "2"}).additions[0].config["env"] == {"A": "1", "B": "2"}

    def test_of_an_empty_group_are_made_from_the_release(self) -> None:
        web = machine("m1", guest=BIG)
        (new,) = scale(web, count=Count(1), group="worker").additions
        assert new.config["image"] == RELEASE["image_ref"]
        assert new.config["init"] == {"cmd": ["k"]}
        assert new.config["guest"] == BIG, "as large as the app's others"
        assert new.config["metadata"]["fly_release_version"] == "7"
        assert new.config["env"]["FLY_PROCESS_GROUP"] == "worker"

    def test_cannot_be_made_when_nothing_says_what_they_run(self) -> None:
        with pytest.raises(NotFound, match="no Machine to make others like"):
            scale(count=Count(1), release=None)
        assert scale(machine("m1"), count=Count(2), file="", release=None).additions, "the Machines do"

    @pytest.mark.parametrize(
        "file", [FILE + "mounts = { source = 'd', destination = '/d', processes = ['web'] }", FILE]
    )
    def test_with_volumes_are_refused(self, file: str) -> None:
        mounts = [] if "mounts" in file else [{"volume": "vol_1"}]
        with pytest.raises(Unimplemented, match="has a volume"):
            scale(machine("m1", mounts=mounts), count=Count(2), file=file)


class TestRemoval:
    def test_takes_what_does_not_run_first_and_what_is_out_of_reach_last(self) -> None:
        lost = {**machine("m1", state="stopped"), "host_status": "unreachable"}
        members = [lost, machine("m2"), machine("m3"), machine("m4", state="suspended"), machine("m5", state="failed")]
        assert gone(scale(*members, count=Count(0))) == ["m5", "m4", "m2", "m3", "m1"]

    def test_leaves_a_standby_and_what_it_stands_by_for(self) -> None:
        members = [machine("m1"), machine("m2"), standby("m3", "m1")]
        found = scale(*members, count=Count(1))
        assert gone(found) == ["m2"]
        assert found.after.count == 1
        assert not scale(*members, count=Count(2)).changes, "a standby is no capacity"

    def test_takes_a_standby_with_the_last_that_it_stands_by_for(self) -> None:
        members = [machine("m1"), machine("m2"), standby("m3", "m1", "m2"), standby("m4", "gone")]
        assert gone(scale(*members, count=Count(1))) == ["m1"]
        assert gone(scale(*members, count=Count(0))) == ["m1", "m2", "m3", "m4"]

    def test_of_all_is_remembered(self) -> None:
        assert scale(machine("m1"), count=Count(0)).after == Rules(count=0)
