"""Schemathesis against the OpenAPI: whatever the description allows and forbids, no answer is a server error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from ragops.service import routes
from tests.served import key, served, workspace

pytestmark = pytest.mark.slow

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance, positive_data_acceptance, negative_data_rejection, unsupported_method, ignored_auth,
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workspace(tmp_path_factory.mktemp("schema")).root


@pytest.fixture(scope="module")
def headers(root: Path) -> dict[str, str]:
    return key(root)


@pytest.fixture(scope="module")
def api(root: Path, headers: dict[str, str]) -> Iterator[Any]:
    with served(root) as service:
        yield schemathesis.openapi.from_url(f"{service.url}/openapi.json", wait_for_schema=20)


def filtered(case: Any) -> bool:
    """The form of a filter is checked by the service; the description says it in words."""
    return '"filter"' in json.dumps(case.body, default=str)


OPERATIONS = [
    (method, route.path) for route in routes.router.routes if isinstance(route, APIRoute) for method in route.methods
]


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda part: part)
def test_the_service_is_as_described(
    api: Any, headers: dict[str, str], method: str, path: str, mode: GenerationMode
) -> None:
    cases: Any = api[path][method].as_strategy(generation_mode=mode)

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases)
    def check(case: Any) -> None:
        checks = [each for each in CHECKS if each is not positive_data_acceptance or not filtered(case)]
        case.call_and_validate(headers=headers, checks=checks)

    try:
        check()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, "what takes nothing cannot be given wrong things"
