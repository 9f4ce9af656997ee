import pytest
from site_on_loopback import Site

from chatwright.data.sources.website import Website


@pytest.fixture
def site():
    """A server on loopback without any page."""
    found = Site()
    yield found
    found.close()


@pytest.fixture
def settings(site, tmp_path):
    """A recipe's source for the site, beginning at `/` of `site.test`."""

    def make(*start: str, **values) -> Website:
        urls = start or (site.url(),)
        fixed = {"contact": "owner@example.org", "store": str(tmp_path / "store"), "sitemaps": False}
        return Website(start=urls, **(fixed | {"delay_s": 0.1} | values))

    return make
