"""One request against servers that are slow, endless, cut, compressed beyond reason, or not who they say."""

import gzip
import socket
import ssl
import subprocess
import threading
import time

import pyarrow as pa
import pytest
from site_on_loopback import LOOPBACK, Answer, loopback, text, zipped

from chatwright.data import limits
from chatwright.data.crawl.fetch import Bounds, Session, decompressed
from chatwright.data.crawl.urls import parse_url
from chatwright.data.crawl.verdicts import Unfetchable
from chatwright.data.crawl.wire import Connector

SMALL = Bounds(100_000)


def session(*, time_limit_s=5.0, **values):
    connector = Connector(resolver=loopback, private=(LOOPBACK,), **values)
    return Session(connector, agent="test", time_limit_s=time_limit_s)


def refusal(url, *, time_limit_s=5.0, bounds=SMALL, **values):
    with pytest.raises(Unfetchable) as caught:
        session(time_limit_s=time_limit_s, **values).get(parse_url(url), bounds=bounds)
    return caught.value.reason


@pytest.fixture
def raw():
    """Starts a server that sends the given blocks to each connection, with a pause after each."""
    listening = []

    def start(*blocks: bytes, pause_s: float = 0.0, closes: bool = True) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        listening.append(server)

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    try:
                        connection.recv(65_536)
                        for block in blocks:
                            connection.sendall(block)
                            time.sleep(pause_s)
                        while not closes and connection.recv(65_536):
                            pass
                    except OSError:
                        pass

        threading.Thread(target=serve, daemon=True).start()
        return f"http://raw.test:{server.getsockname()[1]}/"

    yield start
    for server in listening:
        server.close()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"


def test_a_byte_now_and_then_does_not_outlast_the_deadline(raw):
    url = raw(HEAD + b"Content-Length: 10000\r\n\r\n", *[b"x"] * 2000, pause_s=0.02)  # forty seconds
    began = time.monotonic()
    assert refusal(url, time_limit_s=0.3) == "timeout"
    assert time.monotonic() - began < 10


def test_headers_that_trickle_do_not_outlast_the_deadline(raw):
    url = raw(*[bytes([byte]) for byte in HEAD * 5], pause_s=0.02)
    assert refusal(url, time_limit_s=0.3) == "timeout"


def test_a_server_that_says_nothing_does_not_outlast_the_deadline(raw):
    assert refusal(raw(closes=False), time_limit_s=0.3) == "timeout"


def test_a_stop_ends_a_wait_long_before_the_deadline(raw):
    stopped = threading.Event()
    threading.Timer(0.1, stopped.set).start()
    began = time.monotonic()
    assert refusal(raw(closes=False), time_limit_s=30.0, stopped=stopped) == "stopped"
    assert time.monotonic() - began < 15


def test_an_endless_body_ends_at_its_limit(raw):
    blocks = [b"10000\r\n" + b"x" * 65_536 + b"\r\n"] * 100
    assert refusal(raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *blocks)) == "too_large"


def test_an_endless_body_without_a_length_ends_at_its_limit(raw):
    assert refusal(raw(HEAD + b"\r\n", *[b"x" * 65_536] * 100)) == "too_large"


def test_endless_headers_end_at_their_limit(raw):
    assert refusal(raw(HEAD, *[b"X-A: " + b"b" * 8_000 + b"\r\n"] * 100)) == "bad_http"


def test_endless_interim_responses_end(raw):
    assert refusal(raw(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)) == "bad_http"


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"Content-Length: 100\r\n\r\nshort",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n64\r\nshort",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        HEAD,
    ],
)
def test_no_response_that_was_cut_is_given(raw, sent):
    assert refusal(raw(sent)) == "cut_short"


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Bad Header\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(raw, sent):
    assert refusal(raw(sent)) == "bad_http"


def test_a_server_that_hangs_up_is_told(raw):
    assert refusal(raw()) == "connection_lost"


def test_a_body_longer_than_its_length_is_cut_there_and_the_connection_is_not_used_again(raw):
    url = parse_url(raw(HEAD + b"Content-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"))
    one = session()
    assert [one.get(url).body for _ in range(2)] == [b"ok", b"ok"]


def test_a_connection_is_kept_and_made_anew_when_its_server_closed_it(site):
    closing = Answer("two", headers={"Connection": "close"})
    site.hosts["site.test"] = {"/1": text("one"), "/2": closing, "/3": text("three")}
    one = session()
    assert [one.get(parse_url(site.url(path))).body for path in ("/1", "/2", "/3")] == [b"one", b"two", b"three"]


def test_a_kept_connection_that_went_stale_is_made_anew(raw):
    url = parse_url(raw(HEAD + b"Content-Length: 2\r\n\r\nok"))  # the server closes after each answer without saying so
    one = session()
    assert one.get(url).body == b"ok"
    time.sleep(0.05)
    assert one.get(url).body == b"ok"


def test_a_gzipped_page_is_read(site):
    site.hosts["site.test"] = {"/": zipped(text("hello"))}
    assert session().get(parse_url(site.url())).body == b"hello"


BOMBS = {
    "gzip": gzip.compress(bytes(200_000_000), 9),
    "br": pa.compress(bytes(200_000_000), codec="brotli", asbytes=True),
    "zstd": pa.compress(bytes(200_000_000), codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_stops_at_its_limit_within_a_second(name):
    began = time.process_time()
    with pytest.raises(Unfetchable, match="bomb"):
        decompressed(BOMBS[name], name, Bounds(limits.MAX_RESPONSE_BYTES))
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize("name", BOMBS)
def test_a_compressed_body_that_is_cut_or_broken_is_refused(name):
    for broken in (BOMBS[name][:-3], b"\x01garbage" * 10, BOMBS[name] + b"trailing"):
        with pytest.raises(Unfetchable) as caught:
            decompressed(broken, name, Bounds(1 << 30))
        assert caught.value.reason in ("bad_encoding", "bomb")


def test_encodings_on_top_of_each_other_and_unknown_ones_are_refused():
    for name in ("gzip, gzip", "compress", "gzip,br"):
        with pytest.raises(Unfetchable, match="unknown_encoding"):
            decompressed(b"x", name, SMALL)


@pytest.fixture
def certificate(tmp_path):
    """A certificate for `tls.test` that signs itself, and its key."""
    made = tmp_path / "pair.pem"
    subject = ["-subj", "/CN=tls.test", "-addext", "subjectAltName=DNS:tls.test"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", made, "-out", tmp_path / "cert.pem"], check=True, capture_output=True)
    return tmp_path / "cert.pem", made


@pytest.fixture
def https(certificate):
    """A server with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = server.accept()
                with context.wrap_socket(connection, server_side=True) as secured:
                    secured.recv(65_536)
                    secured.sendall(HEAD + b"Content-Length: 2\r\n\r\nok")
            except ssl.SSLError:
                continue
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()[1]
    server.close()


@pytest.mark.slow
def test_a_certificate_that_nobody_vouches_for_is_refused(https):
    assert refusal(f"https://tls.test:{https}/") == "tls_failed"


@pytest.mark.slow
def test_a_certificate_counts_for_its_name_only(https, certificate):
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    assert session(tls=trusting).get(parse_url(f"https://tls.test:{https}/")).body == b"ok"
    assert refusal(f"https://other.test:{https}/", tls=trusting) == "tls_failed"
