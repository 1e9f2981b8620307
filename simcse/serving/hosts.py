"""Which names in a request's Host header mean this service.

A page of the web can make its own name resolve to an address of this machine, and then read what answers there as if
it were its own (DNS rebinding). Its requests still carry its name.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from functools import lru_cache

from simcse.errors import ConfigError

__all__ = ["Hosts"]

LONGEST = 300  # characters of a host and its port; a name has 253 at most
HOST = re.compile(r"(?:\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[^\[\]:/?#@\s]+))(?::\d{0,5})?", re.IGNORECASE)
NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?")


class Hosts:
    """The names and addresses that a Host header may give.

    `localhost` and loopback addresses are always among them; beyond loopback, the machine's own name. A service on
    every address of the machine takes any address: with an address no name is looked up that could be rebound.

    Args:
        bound: names and addresses that the service listens on; default loopback only.
        more: further names, such as that of a proxy before the service.

    Raises:
        ConfigError: one of `more` is no name.
    """

    def __init__(self, bound: Iterable[str] = (), more: Iterable[str] = ()) -> None:
        self._names = {"localhost", *map(_plain, bound)}
        addresses = [address for address in map(_address, self._names) if address is not None]
        self._any_address = any(address.is_unspecified for address in addresses)
        if not all(address.is_loopback for address in addresses):
            self._names.add(_plain(socket.gethostname()))
        for name in more:
            if not NAME.fullmatch(_plain(name)) and _address(name) is None:
                raise ConfigError(
                    f"allowed_hosts: found {name!r}, expected a name without port, such as search.example.org"
                )
            self._names.add(_plain(name))
        self._seen = lru_cache(maxsize=256)(self._is_ours)  # clients hardly change it

    def __contains__(self, host: str) -> bool:
        """Whether a Host header, with a port or without, means this service."""
        return len(host) <= LONGEST and self._seen(host)

    def _is_ours(self, host: str) -> bool:
        if (found := HOST.fullmatch(host)) is None:
            return False
        name = found["address"] or found["name"]
        if _plain(name) in self._names:
            return True
        address = _address(name)
        return address is not None and (self._any_address or address.is_loopback)


def _plain(name: str) -> str:
    """A name as it is compared: without the dot of the root at its end, and an address in its shortest form."""
    address = _address(name)
    return str(address) if address is not None else name.lower().removesuffix(".")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
