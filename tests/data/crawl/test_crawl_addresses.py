"""No connection is made to an address that is not public: the table, directly, behind a redirect, and by DNS."""

import ipaddress
import socket

import pytest
from site_on_loopback import Site, crawl, page, redirect, verdicts

from chatwright.data.crawl import addresses, wire
from chatwright.data.crawl.addresses import checked_addresses, is_allowed, is_public
from chatwright.data.crawl.urls import RefusedUrl, parse_url
from chatwright.data.crawl.verdicts import Unfetchable
from chatwright.data.crawl.wire import Connector

PRIVATE = """
http://127.0.0.1/ http://127.0.0.1:80/ http://127.1.2.3/ http://0.0.0.0/ http://10.0.0.1/ http://10.255.255.255/
http://172.16.0.1/ http://172.31.255.254/ http://192.168.1.1/ http://169.254.169.254/latest/meta-data/
http://169.254.170.2/ http://100.64.0.1/ http://100.100.100.200/ http://192.0.0.1/ http://192.0.2.1/ http://198.18.0.1/
http://198.51.100.1/ http://203.0.113.1/ http://192.88.99.1/ http://224.0.0.1/ http://239.255.255.255/ http://240.0.0.1/
http://255.255.255.255/ http://[::1]/ http://[::]/ http://[fc00::1]/ http://[fd00:ec2::254]/ http://[fe80::1]/
http://[fec0::1]/ http://[ff02::1]/ http://[::ffff:127.0.0.1]/ http://[::ffff:7f00:1]/ http://[::127.0.0.1]/
http://[64:ff9b::7f00:1]/ http://[64:ff9b:1::1]/ http://[2002:7f00:1::]/ http://[2001:0:7f00:1::]/ http://[2001:db8::1]/
http://[3fff::1]/ http://[100::1]/ http://[5f00::1]/ https://127.0.0.1/ http://127.0.0.1./ http://127.0.0.1:80\\@site.test/
""".split()
REFUSED = {
    "http://2130706433/": "ambiguous_host",
    "http://017700000001/": "ambiguous_host",
    "http://0x7f000001/": "ambiguous_host",
    "http://0x7f.0.0.1/": "ambiguous_host",
    "http://0177.0.0.1/": "ambiguous_host",
    "http://127.1/": "ambiguous_host",
    "http://127.0.1/": "ambiguous_host",
    "http://1.2.3.4.5/": "ambiguous_host",
    "http://256.256.256.256/": "ambiguous_host",
    "http://[fe80::1%25eth0]/": "ambiguous_host",
    "http://%31%32%37.0.0.1/": "ambiguous_host",
    "http://user@127.0.0.1/": "userinfo",
    "http://user:password@site.test/": "userinfo",
    "http://site.test@127.0.0.1/": "userinfo",
    "http://site.test:99999/": "bad_url",
    "http://site.test:0/": "bad_url",
    "http://site.test:8o/": "bad_url",
    "http://[::1/": "bad_url",
    "http:///etc/passwd": "bad_url",
    "http:127.0.0.1": "bad_url",
    "http://a\x00b/": "bad_url",
    "http://a b/": "bad_url",
    "http://a_b..c/": "bad_url",
    "file:///etc/passwd": "scheme_not_allowed",
    "gopher://127.0.0.1:6379/_": "scheme_not_allowed",
    "ftp://127.0.0.1/": "scheme_not_allowed",
    "dict://127.0.0.1:11211/": "scheme_not_allowed",
    "data:text/html,x": "scheme_not_allowed",
    "javascript:alert(1)": "scheme_not_allowed",
    "ws://127.0.0.1/": "scheme_not_allowed",
    "jar:http://127.0.0.1!/": "scheme_not_allowed",
}
SAME_ADDRESS = ["http://①②⑦.⓪.⓪.①/", "http://１２７.0.0.1/", "http://127。0。0。1/"]  # as browsers read them


@pytest.fixture
def no_connections(monkeypatch):
    """Any connection that is begun is a failure of the test."""
    made = []
    monkeypatch.setattr(wire.socket, "create_connection", lambda place, **_: made.append(place))
    yield
    assert made == []


@pytest.mark.parametrize("text", [*PRIVATE, *SAME_ADDRESS])
def test_an_address_that_is_not_public_is_refused_before_connecting(text, no_connections):
    connector = Connector(resolver=lambda host, port: pytest.fail("an address was looked up"))
    with pytest.raises(Unfetchable, match="private_address"):
        connector.open(parse_url(text), deadline=1e12)


@pytest.mark.parametrize("text", [*PRIVATE, *SAME_ADDRESS])
def test_a_name_with_such_an_address_is_refused_too(text, no_connections):
    address = parse_url(text).host
    connector = Connector(resolver=lambda host, port: ["93.184.215.14", address])
    with pytest.raises(Unfetchable, match="private_address"):
        connector.open(parse_url("http://innocent.test/"), deadline=1e12)


@pytest.mark.parametrize(("text", "reason"), REFUSED.items())
def test_an_odd_address_is_refused_when_it_is_read(text, reason):
    with pytest.raises(RefusedUrl) as caught:
        parse_url(text)
    assert caught.value.reason == reason


def test_the_table_has_its_sixty_rows():
    assert len(PRIVATE) + len(REFUSED) + len(SAME_ADDRESS) >= 60


@pytest.mark.slow
def test_no_redirect_of_the_table_reaches_its_target(site, settings):
    targets = [*PRIVATE, *SAME_ADDRESS, *REFUSED]
    targets = [target for target in targets if "\x00" not in target]
    pages = {f"/{number}": redirect(target.encode().decode("latin-1")) for number, target in enumerate(targets)}
    site.hosts["site.test"] = {"/": page(*pages)} | pages
    config = settings()
    crawl(config, resolver=lambda host, port: ["127.0.0.1"])
    assert sorted(set(site.asked())) == sorted(["/", *pages])
    assert {entry.partition("/")[0] for entry in site.log} == {"site.test"}
    found = verdicts(config)
    assert {found[site.url(path)] for path in pages} <= {"off_site", "redirect_refused"}


def test_a_redirect_within_the_domain_to_a_private_address_is_refused(site, settings):
    site.hosts["site.test"] = {"/": page("/away", "/named"), "/named": redirect("http://intranet.site.test/")}
    site.hosts["site.test"]["/away"] = redirect(f"http://inner.site.test:{site.port}/secret")
    config = settings(site.url(), "http://inner.site.test/")
    resolved = {"site.test": "127.0.0.1", "inner.site.test": "10.0.0.7", "intranet.site.test": "192.168.0.1"}
    crawl(config, resolver=lambda host, port: [resolved[host]])
    found = verdicts(config)
    assert found[f"http://inner.site.test:{site.port}/secret"] == "private_address"
    assert found["http://inner.site.test/"] == "private_address"
    assert {entry.partition("/")[0] for entry in site.log} == {"site.test"}


def test_a_name_that_changes_its_answer_is_checked_at_every_connection(site, settings):
    site.hosts["site.test"] = {"/": page("/next"), "/next": page()}
    site.hosts["site.test"]["/"].headers["Connection"] = "close"
    config = settings()
    crawl(config, resolver=lambda host, port: ["10.0.0.1" if "site.test/" in site.log else "127.0.0.1"])
    assert site.asked() == ["/"]
    assert verdicts(config)[site.url("/next")] == "private_address"


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch):
    asked, made = [], []

    def resolver(host, port):
        asked.append(host)
        return ["93.184.215.14"] if len(asked) == 1 else ["127.0.0.1"]

    def connect(place, **_):
        made.append(place)
        raise ConnectionRefusedError

    monkeypatch.setattr(wire.socket, "create_connection", connect)
    with pytest.raises(Unfetchable, match="connection_failed"):
        Connector(resolver=resolver).open(parse_url("http://rebind.test/"), deadline=1e12)
    assert (asked, made) == (["rebind.test"], [("93.184.215.14", 80)])


def test_no_recipe_opens_the_places_where_clouds_keep_credentials():
    everything = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
    for text in ("169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "100.100.100.200"):
        assert not is_allowed(ipaddress.ip_address(text), everything)


def test_a_recipe_opens_the_private_network_that_it_names_and_no_other():
    named = [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("::1/128")]
    allowed = [is_allowed(ipaddress.ip_address(text), named) for text in ("10.1.2.3", "10.2.0.1", "::1", "127.0.0.1")]
    assert allowed == [True, False, True, False]


@pytest.mark.parametrize("text", ["93.184.215.14", "1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "172.15.0.1"])
def test_public_addresses_are_public(text):
    assert is_public(ipaddress.ip_address(text))


def test_a_name_without_an_answer_may_pass():
    with pytest.raises(Unfetchable) as caught:
        checked_addresses("gone.test", 80, resolver=lambda host, port: [], private=())
    assert (caught.value.reason, caught.value.may_pass) == ("dns_failed", True)


def test_the_systems_resolver_turns_failures_into_verdicts(monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(addresses.socket, "getaddrinfo", fail)
    resolver = addresses.SystemResolver()
    with pytest.raises(Unfetchable, match="dns_failed"):
        resolver("gone.test", 80)
    resolver.close()


def test_a_port_that_no_start_names_is_refused(site, settings):
    other = Site()
    other.hosts["site.test"] = {"/": page()}
    site.hosts["site.test"] = {"/": page(other.url()), "/r": redirect(other.url())}
    crawl(settings(site.url(), site.url("/r")))
    other.close()
    assert other.log == []
