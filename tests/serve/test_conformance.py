"""Every probe of `conformance` passes against our server."""

import pytest
from conformance import PROBES, Target


@pytest.mark.parametrize("check", PROBES, ids=lambda check: check.__name__)
def test_the_probe_passes(check, served, client):
    check(Target(served.url, "echo-1", client))


def test_there_are_at_least_thirty_probes():
    assert len(PROBES) >= 30
