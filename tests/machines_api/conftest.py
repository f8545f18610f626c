"""The wire, seen through control with a fake host behind it."""

from __future__ import annotations

from tests.control.conftest import api, empty_api, fly, host, settings, theirs

__all__ = ["api", "empty_api", "fly", "host", "settings", "theirs"]
