"""What buildah prints, as steps and as failures that say what to do. The lines are its own."""

from __future__ import annotations

from caddisfly.host.builds.output import Event, Output


def read(*lines: str) -> tuple[Output, list[Event]]:
    output = Output()
    return output, [event for line in lines for event in output.read(line)]


def test_steps_start_and_end_one_after_the_other() -> None:
    output, events = read(
        "STEP 1/3: FROM busybox",
        "Getting image source signatures",
        "STEP 2/3: RUN true",
        "--> Using cache 14b27b4abb6f",
        "--> 14b27b4abb6",
        "STEP 3/3: COPY . /app",
        "COMMIT localhost/x",
    )
    assert [(event.what, event.step.number, event.cached) for event in events] == [
        ("started", 1, False),
        ("ended", 1, False),
        ("started", 2, False),
        ("ended", 2, True),
        ("started", 3, False),
        ("ended", 3, False),
    ]
    assert output.finish(0) == []


def test_stages_are_told_apart() -> None:
    _, events = read("[1/2] STEP 1/2: FROM busybox AS build", "[2/2] STEP 1/4: FROM scratch")
    assert [event.step.name for event in events if event.what == "started"] == ["1/2 1/2", "2/2 1/4"]


def test_the_step_that_failed_has_the_exit_code_of_its_command() -> None:
    output, _ = read(
        "STEP 1/2: FROM busybox",
        "STEP 2/2: RUN exit 3",
        'Error: building at STEP "RUN exit 3": while running runtime: exit status 3',
    )
    [event] = output.finish(1)
    assert (event.what, event.step.exit_code) == ("ended", 3)
    problem = output.problem(1, phase="build")
    assert (problem.what, problem.status) == ("step 2/2 failed: RUN exit 3", "step_failed")


def test_a_base_image_that_is_not_there_names_the_registry() -> None:
    output, _ = read(
        "STEP 1/1: FROM 127.0.0.1:5001/nope",
        "Error: creating build container: initializing source docker://127.0.0.1:5001/nope:latest: reading manifest "
        "latest in 127.0.0.1:5001/nope: manifest unknown",
    )
    problem = output.problem(125, phase="build")
    assert problem.status == "no_base_image"
    assert problem.what == "base image 127.0.0.1:5001/nope is not there"
    assert "registry 127.0.0.1:5001 was asked: manifest unknown" in problem.why


def test_a_registry_that_does_not_answer_is_named() -> None:
    output, _ = read(
        "STEP 1/1: FROM registry.example.com/x",
        "Error: creating build container: initializing source docker://registry.example.com/x:latest: pinging "
        'container registry registry.example.com: Get "https://registry.example.com/v2/": no such host',
    )
    problem = output.problem(125, phase="build")
    assert problem.what == "base image registry.example.com/x is not there"
    assert "registry registry.example.com was asked" in problem.why


def test_a_full_disk_is_said_to_be_one() -> None:
    output, _ = read("dd: error writing '/big': No space left on device", "Error: building: exit status 1")
    assert output.problem(1, phase="build").status == "disk_full"


def test_a_step_that_was_killed_is_told_about_memory() -> None:
    output, _ = read(
        "STEP 2/2: RUN tail /dev/zero",
        "container exited on killed",
        'Error: building at STEP "RUN tail /dev/zero": while running runtime: exit status 1',
    )
    [event] = output.finish(1)
    assert event.step.exit_code == 137
    assert "memory" in output.problem(1, phase="build").next
