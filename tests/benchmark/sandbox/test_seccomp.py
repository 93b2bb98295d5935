"""The filter of system calls: what it denies, what it leaves, and its program run by hand."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.sandbox.seccomp import filter_for

ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000
X86_64, AARCH64, I386 = 0xC000003E, 0xC00000B7, 0x40000003
OWN = 4711


def verdict(machine: str, architecture: int, number: int, first: int = 0, second: int = 0) -> int:
    """Run the filter as the kernel does, for one call."""
    code = filter_for(machine, OWN)
    data = {0: number, 4: architecture, 16: first & 0xFFFFFFFF, 24: second & 0xFFFFFFFF}
    value = place = 0
    while True:
        operation, if_true, if_false, operand = code[place]
        place += 1
        if operation == 0x06:
            return operand
        if operation == 0x20:
            value = data[operand]
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[operation]
            place += if_true if holds else if_false


@pytest.mark.parametrize(("machine", "architecture"), [("x86_64", X86_64), ("aarch64", AARCH64)])
def test_calls_of_another_kind_of_machine_kill(machine: str, architecture: int) -> None:
    for other in {X86_64, AARCH64, I386} - {architecture}:
        assert verdict(machine, other, 0) == KILL
    assert verdict(machine, architecture, 0x40000000 + 59) == KILL


@pytest.mark.parametrize(
    ("machine", "architecture", "clone", "clone3"), [("x86_64", X86_64, 56, 435), ("aarch64", AARCH64, 220, 435)]
)
def test_clone_makes_threads_and_nothing_else(machine: str, architecture: int, clone: int, clone3: int) -> None:
    thread = 0x3D0F00  # the flags of the C library's pthread_create
    assert verdict(machine, architecture, clone, thread) == ALLOW
    assert verdict(machine, architecture, clone, 17) == FAIL | errno.EPERM
    assert verdict(machine, architecture, clone, thread | 0x10000000) == FAIL | errno.EPERM
    assert verdict(machine, architecture, clone3) == FAIL | errno.ENOSYS


@pytest.mark.parametrize(
    ("machine", "architecture", "kill", "tgkill"), [("x86_64", X86_64, 62, 234), ("aarch64", AARCH64, 129, 131)]
)
def test_signals_reach_the_process_itself_only(machine: str, architecture: int, kill: int, tgkill: int) -> None:
    for number in (kill, tgkill):
        assert verdict(machine, architecture, number, OWN) == ALLOW
        for other in (1, 0, -1, OWN + 1):
            assert verdict(machine, architecture, number, other) == FAIL | errno.EPERM


@pytest.mark.parametrize(
    ("machine", "architecture", "denied", "allowed"),
    [
        # execve, fork, vfork, socket, ptrace, mount, unshare, bpf, io_uring_setup, memfd_create, shmget
        ("x86_64", X86_64, [59, 57, 58, 41, 101, 165, 272, 321, 425, 319, 29], [0, 1, 9, 202, 231, 257, 157]),
        ("aarch64", AARCH64, [221, 198, 117, 40, 97, 280, 425, 279, 194], [63, 64, 222, 98, 94, 56, 167]),
    ],
)
def test_dangerous_calls_fail_and_ordinary_ones_do_not(
    machine: str, architecture: int, denied: list[int], allowed: list[int]
) -> None:
    assert {verdict(machine, architecture, number) for number in denied} == {FAIL | errno.EPERM}
    assert {verdict(machine, architecture, number) for number in allowed} == {ALLOW}


@pytest.mark.parametrize(
    ("machine", "architecture", "denied"),
    [
        # chmod, fchmod, fchmodat, fchmodat2, fchown, utimensat, setxattr, fsetxattr, flock, mknodat, linkat, syncfs
        ("x86_64", X86_64, [90, 91, 268, 452, 93, 280, 188, 190, 73, 259, 265, 306]),
        ("aarch64", AARCH64, [52, 53, 452, 55, 88, 5, 7, 32, 33, 37, 267]),
    ],
)
def test_no_call_changes_attributes_and_locks(machine: str, architecture: int, denied: list[int]) -> None:
    assert {verdict(machine, architecture, number) for number in denied} == {FAIL | errno.EPERM}


@pytest.mark.parametrize(
    ("machine", "architecture", "fcntl", "ioctl"), [("x86_64", X86_64, 72, 16), ("aarch64", AARCH64, 25, 29)]
)
def test_descriptors_are_asked_for_ordinary_things_only(
    machine: str, architecture: int, fcntl: int, ioctl: int
) -> None:
    # Close on exec, non-blocking, duplicate; size of a terminal, close on exec.
    for number, command in ((fcntl, 0), (fcntl, 2), (fcntl, 4), (fcntl, 1030), (ioctl, 0x5401), (ioctl, 0x5451)):
        assert verdict(machine, architecture, number, 0, command) == ALLOW
        assert verdict(machine, architecture, number, 0, command + (1 << 32)) == ALLOW
    # Locks of two kinds, owner of signals, lease, seals; flags of a file, input of a terminal.
    for number, command in ((fcntl, 6), (fcntl, 38), (fcntl, 8), (fcntl, 1024), (fcntl, 1033), (ioctl, 0x40086602)):
        assert verdict(machine, architecture, number, 0, command) == FAIL | errno.EPERM
    assert verdict(machine, architecture, ioctl, 0, 0x5412) == FAIL | errno.EPERM


def test_unknown_machine_is_refused() -> None:
    with pytest.raises(OSError, match="no filter of system calls is known for riscv64"):
        filter_for("riscv64", OWN)


HEADERS = [Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h")]


def test_numbers_are_those_of_the_systems_headers_where_they_are_installed() -> None:
    from benchmark.sandbox import seccomp

    named = {name: numbers[0] for name, numbers in {**seccomp._DENIED, **seccomp._SIGNALS}.items()}
    named |= {name: numbers[0] for name, (numbers, _) in seccomp._OF_DESCRIPTORS.items()}
    assert len([number for number in named.values() if number is not None]) == len(set(named.values()) - {None})
    for header in (path for path in HEADERS if path.exists()):
        known = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", header.read_text())}
        assert {name: number for name, number in named.items() if known.get(name, number) != number} == {}


@pytest.mark.sandbox
def test_processes_programs_sockets_and_the_like_are_denied_in_all_threads(answer: Callable[..., Any]) -> None:
    found = answer(
        """
        import subprocess
        early = []
        go = threading.Event()
        def act():
            go.wait()
            early.append(attempt(os.fork))
        # This thread is older than the filter.
        thread = threading.Thread(target=act)
        thread.start()
        import seccomp
        seccomp.install()
        go.set()
        thread.join()
        libc = ctypes.CDLL(None, use_errno=True)
        def failed(*arguments):
            return [libc.syscall(*arguments), ctypes.get_errno()]
        print(json.dumps({
            "fork": [attempt(os.fork), *early],
            "program": [attempt(lambda: os.execv("/proc/self/exe", ["x"])),
                        attempt(lambda: subprocess.run([sys.executable])),
                        attempt(lambda: os.posix_spawn(sys.executable, [sys.executable], {}))],
            "socket": [attempt(socket.socket), attempt(socket.socketpair),
                       attempt(lambda: socket.socket(socket.AF_UNIX))],
            "memory": [attempt(lambda: os.memfd_create("x"))],
            "others": [attempt(lambda: os.kill(1, 9)), attempt(lambda: os.kill(-1, 0)),
                       attempt(lambda: os.pidfd_open(1))],
            "self": attempt(lambda: os.kill(os.getpid(), 0)),
            "ptrace": libc.ptrace(0, 0, 0, 0),
            "unshare": libc.unshare(0x10000000),
            "status": [line.split()[1] for line in open("/proc/self/status") if line.startswith("Seccomp:")],
        }))
        """
    )
    assert found.pop("self") == "did: None"
    assert found.pop("status") == ["2"]
    assert (found.pop("ptrace"), found.pop("unshare")) == (-1, -1)
    assert {each for results in found.values() for each in results} == {"PermissionError"}


@pytest.mark.sandbox
def test_threads_and_torch_work_under_the_filter(answer: Callable[..., Any]) -> None:
    found = answer(
        """
        import torch
        torch.set_num_threads(4)
        made = []
        def work(i):
            made.append(torch.full((100,), i).sum().item())
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        import tempfile
        with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
            print("x", file=nowhere)
            torch.save(torch.ones(3), f"{folder}/x.pt")
            assert torch.load(f"{folder}/x.pt").sum() == 3
            os.set_inheritable(nowhere.fileno(), False)
            sys.stdout.isatty(), torch.seed(), sys.stdin.read()
        print(json.dumps([sorted(made), torch.ones(2000, 2000).matmul(torch.ones(2000)).sum().item()]))
        """,
        filtered=True,
    )
    assert found == [[100 * i for i in range(8)], 4_000_000.0]
