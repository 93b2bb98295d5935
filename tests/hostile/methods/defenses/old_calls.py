"""Makes a process by machine code that asks the kernel in an old way, past a filter that knows only the new one."""

import ctypes
import mmap
import os

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register

CODE = {
    # mov eax, 2 (fork among the 32-bit calls); int 0x80; ret
    "int80": b"\xb8\x02\x00\x00\x00\xcd\x80\xc3",
    # mov eax, 0x40000039 (fork in the x32 numbering); syscall; ret
    "x32": b"\xb8\x39\x00\x00\x40\x0f\x05\xc3",
}


@register(
    title="Old calls",
    description="Forks by machine code, in a numbering of system calls that few programs use.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class OldCalls(Defense):
    """One numbering an instance.

    Args:
        call: Its name.
    """

    def __init__(self, call: str = "int80") -> None:
        self.call = call

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Fork, or say why not."""
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(CODE[self.call])
        child = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
        if child == 0:
            os._exit(0)
        raise RuntimeError(f"fork gave {child}")
