"""A filter of system calls for untrusted code: no new processes or programs, no sockets, no namespaces, no mounts.

Nor may a method change modes, owners, times, attributes or locks of any file.

It is the second fence. The first, the sandbox around the process, already hides what these calls could reach; the
filter keeps the process from trying, and from parts of the kernel in which holes have been found. It cannot be taken
off again. Threads stay possible. Only the standard library is used here, because this runs inside.

Reference: Linux, Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

# System call → its number on x86-64 and on aarch64, from Linux' asm/unistd_64.h and asm-generic/unistd.h.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # New programs and processes; threads are let through by _clone.
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    # Other processes.
    "kcmp": (312, 272),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    # Networks, and every other socket.
    "socket": (41, 198),
    "socketpair": (53, 199),
    # Namespaces and mounts.
    "chroot": (161, 51),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "pivot_root": (155, 41),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "setns": (308, 268),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "umount2": (166, 39),
    "unshare": (272, 97),
    # Changes of modes, owners, times and attributes, new nodes and links, locks and watches. A filter does not see
    # which file a path or a descriptor leads to, and a method needs no such call for its own scratch files.
    "chmod": (90, None),
    "chown": (92, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "file_setattr": (469, 469),
    "flock": (73, 32),
    "fremovexattr": (199, 16),
    "fsetxattr": (190, 7),
    "futimesat": (261, None),
    "inotify_add_watch": (254, 27),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "lchown": (94, None),
    "link": (86, None),
    "linkat": (265, 37),
    "lremovexattr": (198, 15),
    "lsetxattr": (189, 6),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "removexattr": (197, 14),
    "removexattrat": (466, 466),
    "setxattr": (188, 5),
    "setxattrat": (463, 463),
    "sync": (162, 81),
    "syncfs": (306, 267),
    "utime": (132, None),
    "utimensat": (280, 88),
    "utimes": (235, None),
    # Memory and messages that outlive a mapping, which no limit on memory sees.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "msgctl": (71, 187),
    "msgget": (68, 186),
    "msgrcv": (70, 188),
    "msgsnd": (69, 189),
    "semctl": (66, 191),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmdt": (67, 197),
    "shmget": (29, 194),
    # Parts of the kernel that a method has no use for and that holes were found in.
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "modify_ldt": (154, None),
    "nfsservctl": (180, 42),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "request_key": (249, 218),
    "syslog": (103, 116),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "ustat": (136, None),
    "vhangup": (153, 58),
    # The machine itself.
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "init_module": (175, 105),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "settimeofday": (164, 170),
}
_CLONE = (56, 220)
_CLONE3 = (435, 435)
# Signals go to this process only: the first argument is its number.
_SIGNALS = {"kill": (62, 129), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240)}
# Permitted requests to a descriptor. The filter refuses any other, such as a lock, a lease or a flag of the file.
_OF_DESCRIPTORS: dict[str, tuple[tuple[int, int], dict[str, int]]] = {
    "fcntl": (
        (72, 25),
        {
            "F_DUPFD": 0,
            "F_GETFD": 1,
            "F_SETFD": 2,
            "F_GETFL": 3,
            "F_SETFL": 4,
            "F_DUPFD_CLOEXEC": 1030,
            "F_GETPIPE_SZ": 1032,
            "F_GET_SEALS": 1034,
        },
    ),
    "ioctl": (
        (16, 29),
        {
            "TCGETS": 0x5401,
            "TIOCGWINSZ": 0x5413,
            "FIONREAD": 0x541B,
            "FIONBIO": 0x5421,
            "FIONCLEX": 0x5450,
            "FIOCLEX": 0x5451,
            "TCGETS2": 0x802C542A,
        },
    ),
}
"""Call → its number on x86-64 and on aarch64, and the permitted values of its second argument."""
_SECCOMP = (317, 277)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine → column of its numbers, and the kernel's name for its calls (``AUDIT_ARCH_*``)."""
_X32_BIT = 0x40000000

_CLONE_THREAD = 0x00010000
_CLONE_NAMESPACES = 0x7E020080  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET, TIME

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# Offsets in struct seccomp_data; little-endian.
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
_ALLOW, _KILL_PROCESS, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _ALL_THREADS = 1, 1

Instruction = tuple[int, int, int, int]
"""Operation, jump if true, jump if false, operand."""


def install() -> None:
    """Put the filter on all threads of this process, for good. What it denies fails with ``PermissionError``.

    Raises:
        OSError: The kernel refuses it, or this machine is neither x86-64 nor aarch64.
    """
    code = filter_for(platform.machine(), os.getpid())
    packed = b"".join(struct.pack("<HBBI", *instruction) for instruction in code)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    program = struct.pack("@HP", len(code), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "privileges cannot be given up")
    call = _SECCOMP[_MACHINES[platform.machine()][0]]
    # Returns the number of a thread that it could not be put on, so that only 0 is success.
    if libc.syscall(call, _SET_MODE_FILTER, _ALL_THREADS, program):
        raise OSError(ctypes.get_errno() or errno.EBUSY, "the filter of system calls cannot be installed")


def filter_for(machine: str, process: int) -> list[Instruction]:
    """Return the filter as instructions of the kernel's classic packet-filter machine.

    Args:
        machine: As :func:`platform.machine` names it.
        process: Number of the one process that may be sent signals.

    Raises:
        OSError: The system calls of ``machine`` are not known here.
    """
    if machine not in _MACHINES:
        raise OSError(errno.ENOSYS, f"no filter of system calls is known for {machine}; use x86_64 or aarch64")
    column, architecture = _MACHINES[machine]
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        # The other numbering of x86-64, by which every denied call has a second number.
        (_AT_LEAST, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _KILL_PROCESS),
        # The C library starts threads by clone3, whose flags a filter cannot see, and by clone where there is none.
        *_answer(_CLONE3[column], errno.ENOSYS),
        *_clone(_CLONE[column]),
    ]
    for numbers in _SIGNALS.values():
        code += _signal(numbers[column], process)
    for numbers, permitted in _OF_DESCRIPTORS.values():
        code += _only(numbers[column], sorted(permitted.values()))
    for number in sorted(numbers[column] or 0 for numbers in _DENIED.values() if numbers[column] is not None):
        code += _answer(number, errno.EPERM)
    return [*code, (_RETURN, 0, 0, _ALLOW)]


def _answer(number: int, error: int) -> list[Instruction]:
    return [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _FAIL | error)]


def _only(number: int, permitted: list[int]) -> list[Instruction]:
    """Allow a call for some values of its second argument, of which the kernel reads 32 bits."""
    # A jump counts the instructions that it leaves out: to the permission behind the comparisons and the refusal.
    comparisons = [(_EQUAL, len(permitted) - place, 0, value) for place, value in enumerate(permitted)]
    return [
        (_EQUAL, 0, len(permitted) + 3, number),
        (_LOAD, 0, 0, _SECOND_ARGUMENT),
        *comparisons,
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _clone(number: int) -> list[Instruction]:
    """Allow threads of this process, and nothing else."""
    return [
        (_EQUAL, 0, 5, number),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 1, 0, _CLONE_NAMESPACES),
        (_ANY_BIT, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _signal(number: int, process: int) -> list[Instruction]:
    return [
        (_EQUAL, 0, 4, number),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 1, 0, process),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
