"""Starts other processes, by the way that the parameter names; two hundred at most, in case of success."""

import ctypes
import multiprocessing
import os
import subprocess
import sys
import time

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register

X86_64 = {"clone": 56, "vfork": 58, "clone3": 435, "execveat": 322}


def fork_bomb() -> None:
    """Children have children, each of which holds a second of processor time."""
    for _ in range(200):
        if os.fork() == 0:
            end = time.process_time() + 1
            while time.process_time() < end:
                pass
            os._exit(0)


def daemon() -> None:
    """Leave a grandchild in a session of its own, which outlives the method."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)


def execute() -> None:
    """Become another program."""
    os.execv(sys.executable, [sys.executable, "-c", "print('not the method any more')"])


def execute_memory() -> None:
    """Become a program that lies in no file."""
    fd = os.memfd_create("program")
    os.write(fd, b"#!/bin/sh\nsleep 60\n")
    os.execve(fd, ["program"], {})


def shell() -> None:
    """Ask a shell."""
    subprocess.run(["/bin/sh", "-c", "sleep 60 & echo started"], check=True)


def spawn() -> None:
    """Start a program without forking."""
    os.posix_spawn("/bin/sh", ["sh", "-c", "sleep 60"], {})


def worker() -> None:
    """Start a worker as libraries do."""
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    process.start()
    process.join()


def clone() -> None:
    """Call the kernel by number."""
    libc = ctypes.CDLL(None, use_errno=True)
    sigchld = 17
    child = libc.syscall(X86_64["clone"], sigchld, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    if child < 0:
        raise OSError(ctypes.get_errno(), "clone")


def clone3() -> None:
    """Call the kernel by its newer number, whose flags a filter cannot see."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17)
    child = libc.syscall(X86_64["clone3"], ctypes.byref(arguments), ctypes.sizeof(arguments))
    if child == 0:
        os._exit(0)
    if child < 0:
        raise OSError(ctypes.get_errno(), "clone3")


def clone_parent() -> None:
    """Make a sibling: a child of one's own parent, which nobody waits for."""
    libc = ctypes.CDLL(None, use_errno=True)
    clone_parent_flag, sigchld = 0x8000, 17
    child = libc.syscall(X86_64["clone"], clone_parent_flag | sigchld, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    if child < 0:
        raise OSError(ctypes.get_errno(), "clone")


@register(
    title="Many processes",
    description="Starts processes that work for somebody else, or that outlive the run.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class ManyProcesses(Defense):
    """Tries one way after the other."""

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Say which ways were open."""
        if os.getpid() > 50:
            raise RuntimeError("the machine's processes are visible")
        ways = (daemon, execute, execute_memory, shell, spawn, worker, clone, clone3, clone_parent, fork_bomb)
        through = []
        for way in ways:
            try:
                way()
            except Exception:
                continue
            through.append(way.__name__)
        raise RuntimeError(f"{len(ways)} ways tried, open: {through}")
