"""Which Host headers a service without a token answers to: names that no stranger can point at this machine."""

from __future__ import annotations

import socket

import pytest

from simcse import ConfigError
from simcse.serving.app import create_app
from simcse.serving.hosts import Hosts

LOOPBACK = [
    "localhost", "LocalHost", "localhost.", "localhost:8000", "localhost.:80", "localhost:", "127.0.0.1",
    "127.0.0.1:8000", "127.8.9.1", "[::1]", "[::1]:8000", "[0:0:0:0:0:0:0:1]",
]  # fmt: skip
STRANGE = [
    "", " ", "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost",
    "evil.example@localhost", "localhost@evil.example", "localhost/", "localhost evil.example",
    "localhost,evil.example",
    "::1", "[::1", "[evil.example]", "[localhost]", "localhost:80:80", "localhost:80evil", "localhost..", "2130706433",
    "0x7f.1", "0.0.0.0", "10.0.0.7", "[::]", "[2001:db8::7]", "localhost\0", "l\u00f6calhost",
]  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_is_meant_whatever_is_bound(host):
    for bound in ([], ["127.0.0.1"], ["::1"], ["10.0.0.7"], ["0.0.0.0"], ["search.lan", "10.0.0.7"]):
        assert host in Hosts(bound)


@pytest.mark.parametrize("host", STRANGE)
def test_other_names_and_addresses_are_not(host):
    assert host not in Hosts()
    assert host not in Hosts(["127.0.0.1"])


def test_the_bound_name_and_address_are_meant():
    hosts = Hosts(["search.lan", "10.0.0.7"], ["Search.Example.org", "2001:db8::7"])
    for host in ("search.lan", "SEARCH.lan.:80", "10.0.0.7", "search.example.org:443", "[2001:DB8:0::7]:80"):
        assert host in hosts
    for host in ("10.0.0.8", "example.org", "evil.search.example.org", "[2001:db8::8]"):
        assert host not in hosts


@pytest.mark.parametrize("bound", ["0.0.0.0", "::"])
def test_on_every_address_any_address_is_meant_and_the_machines_own_name(bound):
    hosts = Hosts([bound])
    for host in ("10.0.0.7:8000", "[2001:db8::7]", "0.0.0.0:8000", "[::]", socket.gethostname()):
        assert host in hosts
    for host in ("evil.example", "2130706433", "10.0.0.7.evil.example"):
        assert host not in hosts


@pytest.mark.parametrize("name", ["", "search.example.org:80", "http://search.example.org", "*", "a b", "-a"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ConfigError, match="allowed_hosts: found"):
        Hosts(["127.0.0.1"], [name])


@pytest.mark.parametrize(
    "path", ["/", "/api/info", "/api/map", "/metrics", "/openapi.json", "/healthz", "/static/main.js"]
)
def test_a_rebound_name_reads_nothing(index, encoder, client_of, path):
    client = client_of(create_app(index, encoder, hosts=Hosts(["127.0.0.1"], ["search.example.org"])))
    response = client.get(path, headers={"host": "evil.example:8000"})
    assert response.status_code == 421
    assert "evil.example:8000" in response.json()["detail"]
    assert "--allowed_hosts" in response.json()["detail"]
    for host in ("127.0.0.1:8000", "search.example.org"):
        assert client.get(path, headers={"host": host}).status_code == 200


def test_a_request_names_one_host(index, encoder, client_of):
    client = client_of(create_app(index, encoder))
    both = [("host", "localhost"), ("host", "evil.example")]
    assert client.get("/api/info", headers=both).status_code == 400
    assert client.get("/api/info", headers={"host": "localhost"}).status_code == 200
    assert client.get("/api/info", headers={"host": "caf\u00e9".encode("latin-1")}).status_code == 421


def test_with_a_token_any_name_will_do(index, encoder, client_of):
    client = client_of(create_app(index, encoder, token="s3cret"))
    headers = {"host": "search.example.org", "authorization": "Bearer s3cret"}
    assert client.get("/api/info", headers=headers).status_code == 200


CROSS = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site", "origin": "http://localhost:3000"},  # another service of this machine
    {"sec-fetch-site": "cross-site", "content-type": "text/plain"},
    {"origin": "http://evil.example"},
    {"origin": "http://evil.example", "content-type": "text/plain"},
    {"origin": "http://localhost:3000"},
    {"origin": "null"},
]


@pytest.mark.parametrize("headers", CROSS)
def test_pages_of_others_give_no_work(index, encoder, client_of, headers):
    client = client_of(create_app(index, encoder))
    response = client.post("/api/encode", json={"texts": ["a dog"]}, headers={"host": "localhost:8000", **headers})
    assert response.status_code == 403
    assert "another site" in response.json()["detail"]
    assert client.post("/api/encode", content=b"{", headers=headers).status_code == 403


OWN = [
    {},
    {"sec-fetch-site": "same-origin", "origin": "http://localhost:8000"},
    {"sec-fetch-site": "none"},
    {"origin": "http://localhost:8000"},
    {"origin": "https://LOCALHOST:8000"},
]


@pytest.mark.parametrize("headers", OWN)
def test_the_page_itself_and_clients_that_are_no_browsers_do(index, encoder, client_of, headers):
    client = client_of(create_app(index, encoder))
    response = client.post("/api/encode", json={"texts": ["a dog"]}, headers={"host": "localhost:8000", **headers})
    assert response.status_code == 200
    crossing = {"host": "localhost:8000", "sec-fetch-site": "cross-site"}  # a link on another page
    assert client.get("/", headers=crossing).status_code == 200
