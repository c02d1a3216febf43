"""TCP ports of this machine: a free one, and who holds one."""

from __future__ import annotations

import random
import socket
from typing import Final

import psutil

from voice_agent.errors import ConfigError

_TRIES = 50
_FREE: Final = range(20_000, 30_000)
"""Below the ephemeral range as it is by default (32768 up on Linux, 49152 by IANA): a port of that may be gone before
it is used, to one of the hundreds of connections that a stack makes while it starts."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free now, and that the kernel by default gives nobody who asks for any.

    Raises:
        ConfigError: none was found.
    """
    for _ in range(_TRIES):
        port = random.SystemRandom().choice(_FREE)
        if is_free(host, port):
            return port
    raise ConfigError(f"no free port from {_FREE.start} to {_FREE.stop} was found")


def is_free(host: str, port: int) -> bool:
    """Whether ``host:port`` can be bound."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Who listens on a port, in words; empty when we may not know."""
    try:
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr
                and connection.laddr[1] == port
                and connection.pid
            ):
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.Error, OSError):
        return ""
    return ""


def resolve(host: str, port: int, setting: str) -> int:
    """``port`` itself when it is free, a free one for 0.

    Raises:
        ConfigError: somebody else holds it.
    """
    if port == 0:
        return free_port(host)
    if not is_free(host, port):
        by = holder(port)
        raise ConfigError(
            f"port {port} ({setting}) is in use{f' by {by}' if by else ''}; "
            f"stop that, or choose another with --set {setting}=N (0 picks a free one)"
        )
    return port


def resolve_row(host: str, port: int, setting: str, count: int) -> int:
    """The first of ``count`` ports in a row that are free: ``port`` itself, or any for 0.

    Raises:
        ConfigError: somebody else holds one of them.
    """
    if port:
        for place in range(count):
            resolve(host, port + place, setting)
        return port
    for _ in range(_TRIES):
        first = free_port(host)
        if all(is_free(host, first + place) for place in range(1, count)):
            return first
    raise ConfigError(f"no {count} free ports in a row were found for {setting}; name the first of them")
