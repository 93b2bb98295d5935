"""Tries to reach a network, a neighbour or the kernel by every family of sockets, and around them."""

import ctypes
import socket

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register


def connect(family: int, kind: int, address: object) -> None:
    """Open a socket and connect it."""
    with socket.socket(family, kind) as opened:
        opened.settimeout(0.5)
        opened.connect(address)


def listen() -> None:
    """Wait for somebody to call."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as opened:
        opened.bind(("127.0.0.1", 0))
        opened.listen()


def ring() -> None:
    """Open an io_uring, whose operations pass no filter of system calls."""
    libc = ctypes.CDLL(None, use_errno=True)
    parameters = (ctypes.c_char * 120)()
    if libc.syscall(425, 8, ctypes.byref(parameters)) < 0:
        raise OSError(ctypes.get_errno(), "io_uring_setup")


ATTEMPTS = {
    "inet socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "inet datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
    "inet6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM),
    "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "packet": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "unix": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "pair": socket.socketpair,
    "unix abstract": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).bind("\0hostile"),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE),
    "vsock": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM),
    "alg": lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET),
    "listen": listen,
    "io_uring": ring,
}


@register(
    title="Opens sockets",
    description="Reports what it is shown to somebody outside.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class OpensSockets(Defense):
    """Tries one family after the other.

    Args:
        port: Where somebody listens on the machine.
        name: Abstract address at which somebody else listens.
    """

    def __init__(self, port: int = 1, name: str = "") -> None:
        self.port, self.name = port, name

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Say which ways were open."""
        somebody = {
            "the machine": lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", self.port)),
            "a neighbour": lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{self.name}"),
        }
        ways = ATTEMPTS | somebody
        through = []
        for name, attempt in ways.items():
            try:
                attempt()
            except Exception:
                continue
            through.append(name)
        raise RuntimeError(f"{len(ways)} ways tried, open: {through}")
