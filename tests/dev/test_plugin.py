"""The pytest plugin, used as its documentation says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

GUIDE = Path(__file__).parents[2] / "docs" / "dev.md"


def examples(language: str) -> list[str]:
    """The blocks of the guide in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_guide_work(pytester: pytest.Pytester) -> None:
    deployer, tests = (block for block in examples("python") if block.startswith('"""'))
    pytester.makepyfile(deployer=deployer, test_deployer=tests)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=tests.count("\ndef test_"))


def test_settings_reach_the_platform(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ncaddis_chaos = start-error=100%\ncaddis_regions = syd,lab\n")
    pytester.makepyfile(
        """
        def test_regions(caddis_dev):
            assert caddis_dev.regions == ("syd", "lab")

        def test_chaos(caddis_app):
            assert caddis_app.create()["state"] == "failed"
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=2)
    pytester.runpytest_subprocess("--caddis-chaos=calm", "-k", "chaos").assert_outcomes(failed=1, deselected=1)


def test_every_test_has_an_app_of_its_own_which_goes_with_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        names = []

        def test_one(caddis_app):
            caddis_app.create()
            names.append(str(caddis_app))

        def test_two(caddis_app, caddis_dev):
            assert caddis_app.name not in names
            assert names[0] not in [app["name"] for app in caddis_dev.client.apps.list()]

        def test_one_that_deletes_it(caddis_app, caddis_dev):
            caddis_dev.client.apps.delete(caddis_app.name)
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=3)


def test_a_wrong_setting_is_told_as_the_command_tells_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(caddis_dev): pass")
    result = pytester.runpytest_subprocess("--caddis-chaos=boom")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*--chaos: unknown word 'boom'*"])


def test_nothing_is_started_for_tests_that_do_not_ask(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it():
            assert "caddisfly.client" not in sys.modules
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
