"""Looks at the process that started it: its memory, its environment, its descriptors."""

import ctypes
import gc
import os
import sys
from pathlib import Path

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register

SYSCALLS = {"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_open": 434, "pidfd_getfd": 438}
SYSCALLS |= {"kcmp": 312, "process_madvise": 440, "perf_event_open": 298, "bpf": 321, "userfaultfd": 323}
SYSCALLS |= {"add_key": 248, "request_key": 249, "keyctl": 250, "syslog": 103, "name_to_handle_at": 303}
SYSCALLS |= {"open_by_handle_at": 304, "memfd_secret": 447, "io_uring_setup": 425, "kexec_load": 246}
ATTACH = 16
FROM_TOP = 3


def call(name: str, *arguments: object) -> int:
    """Return what a system call gives; raise if it fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(SYSCALLS[name], *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def readable(path: str) -> None:
    """Open a file for reading."""
    os.close(os.open(path, os.O_RDONLY))


def read_memory(pid: int) -> None:
    """Copy bytes of another process."""
    buffer = ctypes.create_string_buffer(8)
    local = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 8)
    remote = (ctypes.c_uint64 * 2)(0x400000, 8)
    call("process_vm_readv", pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)


def steal_descriptor(pid: int) -> None:
    """Copy a descriptor of another process."""
    call("pidfd_getfd", call("pidfd_open", pid, 0), 1, 0)


ATTEMPTS = {
    "memory of the parent": lambda: readable(f"/proc/{os.getppid()}/mem"),
    "memory of the first": lambda: readable("/proc/1/mem"),
    "environment of the parent": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes()[0],
    "environment of the first": lambda: Path("/proc/1/environ").read_bytes()[0],
    "descriptors of the parent": lambda: os.listdir(f"/proc/{os.getppid()}/fd")[0],
    "root of the parent": lambda: os.listdir(f"/proc/{os.getppid()}/root/proc"),
    "root of the first": lambda: os.listdir("/proc/1/root/proc"),
    "working folder of the first": lambda: os.listdir("/proc/1/cwd/."),
    "ptrace of the parent": lambda: call("ptrace", ATTACH, os.getppid(), 0, 0),
    "ptrace of the first": lambda: call("ptrace", ATTACH, 1, 0, 0),
    "process_vm_readv of the parent": lambda: read_memory(os.getppid()),
    "process_vm_readv of the first": lambda: read_memory(1),
    "descriptor of the first": lambda: steal_descriptor(1),
    "performance events": lambda: call("perf_event_open", ctypes.create_string_buffer(128), 0, -1, -1, 0),
    "bpf": lambda: call("bpf", 0, ctypes.create_string_buffer(72), 72),
    "userfaultfd": lambda: call("userfaultfd", 1),
    "keyring": lambda: call("add_key", b"user", b"hostile", b"x", 1, -3),
    "kernel log": lambda: call("syslog", FROM_TOP, ctypes.create_string_buffer(64), 64),
    "kernel memory": lambda: readable("/proc/kcore"),
    "physical memory": lambda: readable("/dev/mem"),
    "disks": lambda: readable("/dev/vda"),
    "file handles": lambda: call("open_by_handle_at", 3, ctypes.create_string_buffer(64), 0),
    "another namespace": lambda: os.listdir("/proc/1/ns")[0],
}


def secrets(word: str) -> list[str]:
    """Return where the word stands that only the parent's environment holds."""
    found = [f"environment {name}" for name, value in os.environ.items() if word in value]
    # The parameter itself is in this process's memory, so memory is not searched, only what describes processes.
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for part in ("environ", "cmdline"):
            try:
                text = Path(f"/proc/{pid}/{part}").read_bytes()
            except OSError:
                continue
            if word.encode() in text:
                found.append(f"{part} of {pid}")
    return found


@register(
    title="Reads the parent",
    description="Looks for labels in the memory of the processes around it.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class ReadsParent(Defense):
    """Reports what it could look at.

    Args:
        word: A word that only the parent's environment holds, backwards.
    """

    def __init__(self, word: str = "") -> None:
        self.word = word[::-1]

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Say what could be seen."""
        if os.getpid() > 50:
            raise RuntimeError("the machine's processes are visible")
        through = []
        for name, attempt in ATTEMPTS.items():
            try:
                attempt()
            except Exception:
                continue
            through.append(name)
        through += secrets(self.word) if self.word else []
        named = ("Probe", "Scenario", "Federation", "MeteredServer", "TaskWorld", "ClientRows", "Plan", "Suite")
        through += sorted({type(o).__name__ for o in gc.get_objects() if type(o).__name__ in named})
        frame = sys._getframe()
        while frame is not None:
            held = (*frame.f_locals, *frame.f_globals)
            through += [f"{name} in {frame.f_code.co_name}" for name in held if "malicious_ids" in name]
            frame = frame.f_back
        raise RuntimeError(f"{len(ATTEMPTS)} ways tried, open: {through}")
