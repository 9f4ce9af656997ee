"""The OpenAPI document is true: Schemathesis makes requests of it, sound and unsound ones, and judges each answer.

`CHATWRIGHT_OPENAPI_CASES=5000` asks for so many in all; without it there is a fair sample. Every request is sent twice:
with the token, and without it, which lets nothing in but `/health`.
"""

import os
import warnings

import pytest
import schemathesis
from echo_server import EchoEngine, running
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from chatwright.model.generation import Sampling
from chatwright.serve.settings import ServeSettings

CASES = int(os.environ.get("CHATWRIGHT_OPENAPI_CASES", "200"))
TOKEN = "correct-horse-battery"  # noqa: S105 - a test's own
CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    engine = EchoEngine()
    engine.context_length = 1 << 20
    other = EchoEngine()
    other.name = "echo-2"
    limits = ServeSettings(token=TOKEN, sampling=Sampling(max_tokens=20))
    with running(tmp_path_factory.mktemp("locked"), limits, engine=engine, other=other) as server:
        yield server


@pytest.fixture(scope="module")
def document(locked):
    with locked.client(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        return client.get("/openapi.json").json()


@pytest.fixture(scope="module")
def kept(locked):
    """A conversation with a question and an answer, so that requests about conversations find one."""
    ids = {"id": "0" * 31 + "1", "turn": "0" * 31 + "2"}
    with locked.client(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        client.post("/v1/conversations", json={"id": ids["id"]}).raise_for_status()
        question = {"id": ids["turn"], "role": "user", "content": "Who goes there?"}
        client.post(f"/v1/conversations/{ids['id']}/turns", json=question).raise_for_status()
        client.post(f"/v1/conversations/{ids['id']}/answers", json={"parent": ids["turn"]}).raise_for_status()
    return ids


def pointed_at_what_exists(case, kept, *, is_deleting):
    """A sound request mostly names a model and a conversation that do not exist; half of them shall."""
    if isinstance(case.body, dict) and "model" in case.body:
        case.body["model"] = "echo-1"
    if isinstance(case.body, dict) and "parent" in case.body:
        case.body["parent"] = kept["turn"]
    if isinstance(case.path_parameters, dict) and not is_deleting:
        case.path_parameters.update({name: kept[name] for name in case.path_parameters.keys() & kept.keys()})


def sent(locked, case, *, token):
    """The response, or None where the request cannot be put into HTTP at all."""
    headers = {"Authorization": f"Bearer {TOKEN}"} if token else {}
    case.headers = {name: text for name, text in (case.headers or {}).items() if name.lower() != "authorization"}
    return case.call(base_url=locked.url, headers=headers, timeout=20)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["sound", "unsound"])
def test_every_answer_is_as_the_document_says_and_nothing_opens_without_the_token(locked, document, kept, mode):
    found = [result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations()]
    asked = [operation for operation in found if mode is GenerationMode.POSITIVE or can_be_unsound(operation)]
    varied = [operation for operation in asked if takes_something(operation)]
    each = -(-CASES * 6 // (10 * len(varied)))  # some operations have fewer different cases than are asked for
    count = {"cases": 0, "good": 0}

    for operation in asked:
        judge(operation, locked=locked, kept=kept, each=each, mode=mode, count=count)
    print(f"{mode.value}: {count['cases']} cases of {len(asked)} operations, {count['good']} answered with success")
    assert count["cases"] >= CASES / 2
    assert mode is GenerationMode.NEGATIVE or count["good"] > CASES / 20


def takes_something(operation):
    return bool(operation.body or operation.query or operation.path_parameters)


def can_be_unsound(operation):
    """A path's own names may be any text, so only bodies and queries can be of a wrong kind."""
    return bool(operation.body or operation.query)


def made_by(operation, mode):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return operation.as_strategy(generation_mode=mode)


def judge(operation, *, locked, kept, each, mode, count):
    """So many requests of one operation, each sent as a stranger and with the token."""
    is_open = operation.path == "/health"

    @seed(20261123)
    @settings(
        max_examples=each,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=made_by(operation, mode))
    def judged(case):
        if mode is GenerationMode.POSITIVE and count["cases"] % 2:
            pointed_at_what_exists(case, kept, is_deleting=operation.method.lower() == "delete")
        stranger = sent(locked, case, token=False)
        assert is_open or stranger.status_code >= 400, f"{operation.label} let a stranger in: {stranger.status_code}"
        response = sent(locked, case, token=True)
        count["cases"] += 1
        count["good"] += response.status_code < 300
        case.validate_response(response, checks=CHECKS)

    judged()
