"""What an address may show of itself: where it leads, never what lets somebody in."""

import pytest

from chatwright.foundation.masking import masked, without_secrets


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql+psycopg://me:secret@host/db", "postgresql+psycopg://me:***@host/db"),
        ("postgresql://me:se/cr?et@host/db", "postgresql://me:***@host/db"),
        ("postgresql:///db?host=h&password=secret", "postgresql:///db?host=h&password=***"),
        ("mysql://me@host/db?ssl_password=secret&charset=utf8", "mysql://me@host/db?ssl_password=***&charset=utf8"),
        ("https://me:secret@host/x", "https://***@host/x"),
        ("https://secret@host/x", "https://***@host/x"),
        ("https://b.host/x?X-Amz-Date=1&X-Amz-Signature=secret", "https://b.host/x?X-Amz-Date=1&X-Amz-Signature=***"),
        ("https://b.host/x?se=2&sig=secret", "https://b.host/x?se=2&sig=***"),
        ("https://host/x?api%5Fkey=secret", "https://host/x?api%5Fkey=***"),
    ],
)
def test_an_address_keeps_its_place_and_loses_its_secret(address, shown):
    assert masked(address) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        *("feedback.db", "", "a:b@c", "~/me:you@here", "sqlite:////srv/me:you@here.db"),
        "hf://datasets/me/texts@main/a",
        *("https://host:8080/mail@you?page=2", "postgresql://me@host:5432/db", "s3://bucket/a?versionId=1&token="),
        "see https://me:you@host",
    ],
)
def test_what_carries_no_secret_comes_back_equal(text):
    assert masked(text) == text


def test_a_configuration_is_masked_at_every_depth_and_equal_without_secrets():
    plain = {"steps": 3, "rate": 0.5, "on": True, "none": None, "list": ["a", {"path": "s3://bucket/x"}]}
    assert without_secrets(plain) == plain
    told = without_secrets({"sources": [{"path": "https://me:secret@host/x"}], "store": "mysql://me:secret@h/db"})
    assert told == {"sources": [{"path": "https://***@host/x"}], "store": "mysql://me:***@h/db"}
