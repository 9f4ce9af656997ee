"""The gate lets in whom it should and nobody else, whatever the path."""

import base64
import contextlib
import socket

import pytest
from echo_server import running, until

from chatwright.foundation.errors import UsageError
from chatwright.serve import guard
from chatwright.serve.settings import ServeSettings, hosts_of_bind, is_loopback, require_sound_access, settings_for

TOKEN = "correct-horse-battery"  # noqa: S105 - a test's own
ANY = "0.0.0.0"  # noqa: S104 - only named, never bound
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:8000", "LOCALHOST", "[::1]:80"])
def test_names_of_this_machine_are_let_in(client, host):
    assert client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8000",
        "192.0.2.1",
        "",
        "localhost:port",
        "user@localhost",
        "localhost/x",
        "evil.example#localhost",
        "[::1",
        "2130706433",
        "localhost.",
    ],
)
def test_other_hosts_are_refused(client, host):
    response = client.get("/", headers={"Host": host})
    assert response.status_code in (400, 403)


def test_pages_of_this_server_may_send(client, served):
    assert client.get("/v1/models", headers={"Origin": served.url}).status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:1", "file://", "http://127.0.0.1.evil.example", "", "x"]
)
def test_foreign_origins_are_refused(client, origin, method):
    response = client.request(method, "/v1/feedback", headers={"Origin": origin, **JSON})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "origin_not_allowed"
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"Content-Type": "text/plain"}, b"{}", 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"a=b", 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x--", 415),
        ({}, b"{}", 415),
        ({**JSON, "Content-Encoding": "gzip"}, b"\x1f\x8b", 415),
        (JSON, b" " * ((1 << 20) + 1), 413),
        ({**JSON, "X-Large": "x" * 20_000}, b"{}", 431),
    ],
)
def test_bodies_and_headers_of_the_wrong_kind_or_size_are_refused(client, headers, content, status):
    assert client.post("/v1/feedback", headers=headers, content=content).status_code == status


def test_a_body_without_an_announced_size_is_cut_at_the_limit(client):
    pieces = iter([b" " * 65536] * 48)  # sent in chunks, three times the limit
    assert client.post("/v1/feedback", headers=JSON, content=pieces).status_code == 413


@contextlib.contextmanager
def begun(server, *, announced, sent):
    """A connection on which a body of so many bytes was announced and its first ones sent."""
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST /v1/feedback HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(f"{head}Content-Length: {announced}\r\n\r\n".encode() + sent)
        yield connection


@pytest.mark.slow
def test_a_body_that_drips_is_given_up(tmp_path):
    with (
        running(tmp_path, ServeSettings(body_timeout_s=0.2)) as server,
        begun(server, announced=100, sent=b"{") as connection,
    ):
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_large_bodies_together_have_a_bound_and_find_room_once_one_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "HELD_BYTES", 100_000)
    with running(tmp_path) as server, server.client() as client:

        def answered():
            return client.post("/v1/feedback", headers=JSON, content=b" " * 60_000)

        with begun(server, announced=90_000, sent=b" " * 60_000):
            for _ in range(20):
                client.get("/health")  # each is a round of the event loop, in which more of what was sent is read
            refused = answered()
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "busy"
            assert int(refused.headers["Retry-After"]) > 0
        until(lambda: answered().status_code == 400)  # read whole, and no JSON


@pytest.mark.parametrize(
    "path",
    ["//", "/static//app.js", "/static/%2e%2e/api.py", "/static/..%2fapi.py", "/a%00b", "/a%5cb", "/static\\app.js"],
)
def test_paths_that_are_not_plain_are_refused(served, path):
    import http.client

    connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=20)
    connection.putrequest("GET", path, skip_host=False)
    connection.endheaders()
    assert connection.getresponse().status == 400
    connection.close()


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/nothing", "/static/app.js"])
def test_every_answer_carries_the_security_headers(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert "server" not in headers


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    with running(tmp_path_factory.mktemp("locked"), ServeSettings(token=TOKEN)) as server:
        yield server


def basic(text):
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize("path", ["/", "/v1/models", "/nothing", "/static/app.js", "/openapi.json", f"/?token={TOKEN}"])
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Token {TOKEN}",
        TOKEN,
        basic("me:wrong"),
        "Basic !!",
        basic(TOKEN),
    ],
)
def test_without_the_token_every_path_answers_the_same(locked, path, authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    with locked.client() as client:
        response = client.get(path, headers=headers)
    assert response.status_code == 401
    assert response.json() == {
        "error": {"message": "a valid token is needed", "type": "authentication_error", "param": None}
        | {"code": "invalid_api_key"}
    }


@pytest.mark.parametrize("authorization", [f"Bearer {TOKEN}", f"bearer {TOKEN}", basic(f"anyone:{TOKEN}")])
def test_the_token_opens_as_bearer_and_as_a_browsers_password(locked, authorization):
    with locked.client(headers={"Authorization": authorization}) as client:
        assert client.get("/").status_code == 200
        assert client.get("/v1/models").status_code == 200
        assert client.get("/nothing").status_code == 404


def test_health_alone_needs_no_token(locked):
    with locked.client() as client:
        assert client.get("/health").status_code == 200


def test_an_address_as_host_is_let_in_where_the_server_listens_on_all(tmp_path):
    settings = ServeSettings(token=TOKEN, allows_any_address=True)
    with running(tmp_path, settings) as server, server.client() as client:
        assert client.get("/health", headers={"Host": "192.0.2.1:8000"}).status_code == 200
        assert client.get("/health", headers={"Host": "evil.example"}).status_code == 403


def test_the_token_never_shows_in_the_settings():
    assert TOKEN not in repr(ServeSettings(token=TOKEN))


def test_an_open_address_without_a_token_is_refused():
    with pytest.raises(UsageError, match="no token"):
        require_sound_access(ANY, None)
    require_sound_access(ANY, TOKEN)
    require_sound_access("::1", None)


@pytest.mark.parametrize("token", ["", "short", "with\nline ends and such", "naïve-and-long-enough"])
def test_a_weak_token_is_refused(token):
    with pytest.raises(UsageError, match="token needs"):
        require_sound_access("127.0.0.1", token)


def test_loopback_is_known_and_hosts_follow_the_bind():
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9")] == [True] * 4
    assert [is_loopback(host) for host in (ANY, "", "::", "192.0.2.1", "example.org")] == [False] * 5
    assert "chat.example.org" in hosts_of_bind("Chat.Example.org")


def test_settings_for_a_bind_let_its_own_names_in():
    loopback = settings_for("127.0.0.1", allowed_hosts=["Chat.Example.org"])
    assert "chat.example.org" in loopback.allowed_hosts
    assert not loopback.allows_any_address
    assert settings_for(ANY, token=TOKEN).allows_any_address
    with pytest.raises(UsageError, match="no token"):
        settings_for(ANY)
