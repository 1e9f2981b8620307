"""What the OpenAPI document promises holds for requests made from it, right and wrong: every check of schemathesis.

The short form makes some hundred requests, the long form (SIMCSE_SOAK=1) some thousand.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings

from simcse import SearchIndex
from simcse.serving.app import create_app

REQUESTS = 500 if os.environ.get("SIMCSE_SOAK") else 8  # of each operation with a body, and of each mode
TOKEN = {"Authorization": "Bearer secret"}
# 422, and 400 below /v1: what no schema says, such as ids that are there, or a number of metadata as of texts
CHECKS = {"positive_data_acceptance": {"expected-statuses": ["2xx", 400, 422]}}


@pytest.fixture(scope="module")
def document(encoder: Any, sentences: list[str], serve: Any) -> Any:
    metadata = [{"lang": "en" if i % 2 else "de", "year": 2000 + i} for i in range(len(sentences))]
    url = serve(create_app(SearchIndex.build(sentences, encoder.encode, metadata=metadata), encoder, token="secret"))
    config = schemathesis.Config.from_dict({"checks": CHECKS})
    return schemathesis.openapi.from_url(f"{url}/openapi.json", headers=TOKEN, config=config)


# of schemathesis, which makes some wrong requests so
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
def test_the_service_does_what_its_document_says(document: Any) -> None:
    modes, sent, failed = schemathesis.GenerationMode, 0, []
    operations = [found.ok() for found in document.get_all_operations()]
    for operation in operations:
        for mode in (modes.POSITIVE, modes.NEGATIVE) if operation.body else (modes.POSITIVE,):

            @seed(0)
            @settings(max_examples=REQUESTS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case: Any) -> None:
                nonlocal sent
                sent += 1
                case.call_and_validate(headers=TOKEN)

            try:
                check()
            except (Exception, BaseExceptionGroup) as error:
                failed.append(f"{operation.label}, {mode.value}: {error}")
    assert not failed, "\n".join(failed)
    assert len(operations) > 10
    assert sent > 10 * REQUESTS
