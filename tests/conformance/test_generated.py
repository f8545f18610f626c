"""Requests generated from the OpenAPI document, good ones and bad ones: never a crash, always the shapes that it says.

They go to simulated hosts, to an app and a Machine that exist, so that they get past the door.
"""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from caddisfly.control.control import Control
from caddisfly.control.rest import api
from caddisfly.control.settings import ControlSettings
from caddisfly.pytest_plugin import CaddisApp, CaddisDev

_SETTINGS = hypothesis.settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)
_LEFT_OUT = {"Apps_delete", "Machines_delete"}
"""They would take away what all others are tried on."""


def operations() -> dict[str, Any]:
    document = api.routes(Control(ControlSettings())).openapi()
    schema = schemathesis.openapi.from_dict(document)
    found = (result.ok() for result in schema.get_all_operations())
    named = {operation.definition.raw["operationId"]: operation for operation in found}
    # What is not there yet is named after its path, not after its noun.
    return {name: operation for name, operation in sorted(named.items()) if name[1].islower() and name not in _LEFT_OUT}


def can_be_wrong(operation: Any) -> bool:
    """Whether there is anything to get wrong beside the names of app and Machine."""
    raw = operation.definition.raw
    return "requestBody" in raw or any(parameter["in"] == "query" for parameter in raw.get("parameters", ()))


OPERATIONS = operations()


@pytest.mark.parametrize("name", OPERATIONS)
def test_generated_requests(name: str, caddis_dev: CaddisDev, caddis_app: CaddisApp) -> None:
    machine = caddis_app.create()["id"]
    known = {"app": caddis_app.name, "machine": machine, "org": "personal"}

    def send(case: Any) -> None:
        case.path_parameters = {key: known.get(key, value) for key, value in (case.path_parameters or {}).items()}
        if "wait" in case.path:
            case.query = {**(case.query or {}), "timeout": "1"}
        response = case.call(
            base_url=caddis_dev.url, headers={"authorization": f"Bearer {caddis_dev.token}"}, timeout=30
        )
        if response.status_code == 501:
            assert response.json()["next"], "what is not there says so"
            return
        case.validate_response(
            response, checks=[not_a_server_error, content_type_conformance, response_schema_conformance]
        )
        if response.status_code >= 400:
            assert response.json()["error"]

    operation = OPERATIONS[name]
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)[: 1 + can_be_wrong(operation)]:
        strategy = operation.as_strategy(generation_mode=mode)
        _SETTINGS(hypothesis.given(case=strategy)(send))()
