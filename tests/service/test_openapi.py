"""The OpenAPI document: what it promises is described, exemplified, and does not change by accident."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from service.examples import SCHEMAS
from tests.service.snapshot import SNAPSHOT, current

Operation = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return current(tmp_path_factory.mktemp("openapi"))


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_the_document_is_the_one_that_was_agreed_on(document: dict[str, Any]) -> None:
    """`make openapi` writes the snapshot anew; its diff is what changes for callers."""
    assert document == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def test_every_operation_and_parameter_is_described(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        assert operation["description"], (method, path)
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (method, path, parameter["name"])


def test_every_body_and_every_answer_in_json_has_an_example(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for method, path, operation in operations(document):
        if not path.startswith("/v1"):
            continue
        contents = [operation.get("requestBody", {}).get("content", {})]
        contents += [answer.get("content", {}) for status, answer in operation["responses"].items() if status < "300"]
        for content in contents:
            schema = content.get("application/json", {}).get("schema", {})
            for name in re.findall(r"#/components/schemas/(\w+)", json.dumps(schema)):
                assert schemas[name]["examples"], (method, path, name)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_an_example_fits_its_schema(name: str, document: dict[str, Any]) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(SCHEMAS[name])


def test_every_problem_is_documented_with_its_form(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        if not path.startswith("/v1"):
            continue
        answers = operation["responses"]
        assert {"401", "403", "422", "429", "503"} <= set(answers), (method, path)
        assert ({"400", "413"} <= set(answers)) == ("requestBody" in operation), (method, path)
        assert "404" in answers or "{" not in path or method == "PUT", (method, path)
        for status, answer in answers.items():
            if status >= "400":
                form = answer["content"]["application/problem+json"]["schema"]
                assert form == {"$ref": "#/components/schemas/Problem"}, (method, path, status)
