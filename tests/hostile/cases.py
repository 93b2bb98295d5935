"""Every misbehaviour with the way in which it must end."""

from __future__ import annotations

from dataclasses import replace

from benchmark.sandbox.limits import GIB, MIB

from .play import TIGHT, Case

FAST = replace(TIGHT, call_seconds=2.0)
SLOW = replace(TIGHT, call_seconds=40.0, cpu_seconds=30.0)

LOADING = [
    Case("metadata_missing", "", ("metadata_missing", "unusable metadata", "description")),
    Case("metadata_absent", "", ("registers no defense called 'metadata_absent'",)),
    Case("metadata_twice", "", ("registered twice",)),
    Case("metadata_borrows_id", "", ("id='krum'", "the id is the name of the file")),
    Case("metadata_markup", "", ("characters that cannot be shown on one line",)),
    Case("metadata_huge", "", ("metadata_huge",)),
    Case(
        "metadata_changes",
        "aggregate",
        ("describes itself in another way than before: description was", "must be the same at every import"),
        both=True,
    ),
    Case("metadata_changes_alone", "degenerate_as", ("describes itself in another way than before",)),
    Case("knowledge_truth", "", ("wants to know who is malicious",)),
    Case("not_a_defense", "", ("not_a_defense",)),
    Case("constructor_fails", "aggregate", ("create() of 'constructor_fails'", "LookupError: no instance of me")),
    Case("import_fails", "", ("import_fails", "ZeroDivisionError: Defense is not for me")),
    Case("import_exits", "", ("import_exits", "SystemExit")),
    Case("import_loops", "", ("import_loops", "took longer than 9 s"), limits=replace(TIGHT, load_seconds=9.0)),
]

HOOKS = ("check_shape", "degenerate_as", "prepare", "aggregate", "finalize", "serve")

RAISING = [
    *(
        Case("raises_in_every_hook", hook, (f"{hook}() of", f"LookupError: {hook} fails"), {"kind": "exception"})
        for hook in HOOKS
    ),
    *(
        Case("raises_in_every_hook", hook, (f"{hook}() of", reason), {"kind": kind})
        for hook, kind, reason in (
            ("check_shape", "exit", "SystemExit"),
            ("prepare", "interrupt", "KeyboardInterrupt"),
            ("finalize", "base", "Base: finalize fails"),
            ("serve", "exit", "SystemExit"),
            ("aggregate", "not applicable", "aggregate does not apply"),
            ("aggregate", "unprintable", "UnprintableError"),
            ("aggregate", "endless", "took longer than 2 s"),
            ("aggregate", "nameless", "aggregate() of"),
            ("aggregate", "huge", "ValueError: aggregate aggregate"),
            ("aggregate", "half a character", "ValueError"),
            ("aggregate", "terminal", "ValueError"),
            ("aggregate", "group", "many"),
        )
    ),
    Case(
        "raises_in_every_hook",
        "check_shape",
        ("check_shape does not apply",),
        {"kind": "not applicable"},
    ),
]
RAISING = [replace(case, limits=FAST) for case in RAISING]

LOOPING = [
    Case("loops_in_every_hook", hook, (f"{hook}() of", "took longer than 2 s"), limits=FAST, both=hook == "aggregate")
    for hook in HOOKS
]

RETURNING = [
    *(
        Case("wrong_returns", "aggregate", ("aggregate()", *reason), {"what": what})
        for what, *reason in (
            ("nothing", "returned NoneType"),
            ("a list", "returned list"),
            ("a matrix", "shape (7, 1000)"),
            ("one number too few", "shape (999,)"),
            ("integers", "int64"),
            ("a sparse tensor",),
            ("a tensor of nothing",),
            ("not a number", "not finite"),
            ("too large for float32", "not finite"),
            ("terabytes that share one number", "shape (1099511627776,)"),
            ("weights for others", "(6,) weights for 7 clients"),
            ("weights of ten", "sum to 10"),
            ("weights as text", "str"),
            ("a lying aggregate", "shape (3,)"),
        )
    ),
    *(
        Case("wrong_returns", "finalize", ("finalize()", *reason), {"what": what})
        for what, *reason in (
            ("nothing", "NoneType"),
            ("a matrix", "shape"),
            ("a list", "list"),
        )
    ),
    *(
        Case("wrong_returns", "serve", ("serve()", *reason), {"what": what})
        for what, *reason in (
            ("nothing", "None"),
            ("a list", "returned ['text']"),
            ("an answer that is a number", "7"),
            ("half a character",),
            ("too long", "500,000 characters"),
        )
    ),
]

MEMORY = [
    *(
        Case("memory_bomb", "aggregate", reason, {"kind": kind}, both=kind not in ("tensors", "unmapped"), limits=SLOW)
        for kind, reason in (
            ("lists", ("used more than 1 GiB of memory",)),
            ("tensors", ("used more than 1 GiB of memory",)),
            ("shared", ("used more than 1 GiB of memory",)),
            ("threads", ("threads",)),
            ("scratch", ("No space left",)),
            ("shm", ("no folder is left to fill",)),
            ("unmapped", ("PermissionError",)),
        )
    ),
    Case("memory_bomb", "aggregate", ("File too large",), {"kind": "one_file"}, limits=SLOW),
    Case("memory_bomb", "aggregate", ("Too many open files",), {"kind": "pipes"}, limits=SLOW),
    Case("memory_bomb", "aggregate", ("ended its process", "signal"), {"kind": "stack"}, limits=SLOW),
]

OUTPUT = [
    Case("prints_much", "aggregate", (), limits=SLOW),
    Case("returns_much", "degenerate_as", ("degenerate_as()",), {"what": "name"}, limits=SLOW),
    Case("returns_much", "degenerate_as", ("degenerate_as()",), {"what": "levels"}, limits=SLOW),
    Case("returns_much", "prepare", ("prepare()",), {"what": "prompt"}, limits=SLOW),
    Case("returns_much", "prepare", ("prepare()",), {"what": "prompts"}, limits=SLOW),
    Case("returns_much", "prepare", ("prepare()",), {"what": "levels"}, limits=SLOW),
    Case("returns_much", "aggregate", ("aggregate()", "shape (60000000,)"), {"what": "tensor"}, limits=SLOW),
    Case("returns_much", "serve", ("serve()",), {"what": "answer"}, limits=SLOW),
]

PROCESSES = [
    Case("many_processes", "aggregate", ("10 ways tried, open: []",), both=True, limits=SLOW),
    Case("old_calls", "aggregate", ("ended its process", "Bad system call"), {"call": "int80"}, both=True),
    Case("old_calls", "aggregate", ("ended its process", "Bad system call"), {"call": "x32"}),
    Case("threads_left_behind", "aggregate", (), both=True),
    *(
        Case("exits", "aggregate", reason, {"way": way}, both=way in ("kill the first", "kill all", "segfault"))
        for way, reason in (
            ("exit", ("SystemExit: 0",)),
            ("_exit", ("ended its process: exited with status 0",)),
            ("abort", ("signal 6",)),
            ("segfault", ("signal 11",)),
            ("kill all", ("PermissionError",)),
            ("kill the first", ("PermissionError",)),
            ("kill the group", ("PermissionError",)),
            ("later", ()),
        )
    ),
]

CHANNEL = [
    *(
        Case("speaks_channel", "prepare and aggregate", reason, {"way": way}, limits=FAST)
        for way, reason in (
            ("garbage", ("aggregate()",)),
            ("length of exabytes, little", ("announced a message",)),
            ("length of gigabytes", ("announced a message",)),
            ("flood", ("announced a message",)),
            ("close", ("aggregate()",)),
            ("cross", ("aggregate()",)),
            ("truncate", ()),
            ("kept server", ()),
        )
    ),
    # Threads of one process take each other's answers or do not, as it happens; either way it is that process's affair.
    *(
        Case(
            "speaks_channel", "prepare and aggregate", (" of 'speaks_channel' ",), {"way": way}, limits=FAST, fine=True
        )
        for way in ("many threads", "after the end", "swallow")
    ),
    *(Case("writes_arena", "aggregate", (), {"way": way}) for way in ("tensor", "pointer", "descriptors", "reply")),
    Case("writes_arena", "aggregate", ("aggregate()", "not resizable"), {"way": "storage"}),
    Case("writes_arena", "aggregate", ("aggregate()", "not resizable"), {"way": "grown"}),
    Case("patches_everything", "aggregate", ("aggregate()",)),
]

ATTACKS = [
    *(
        Case("attack_misbehaves", what.split()[0], (f"{what.split()[0]}() of", *reason), {"what": what}, limits=FAST)
        for what, *reason in (
            ("pool fails", "ZeroDivisionError"),
            ("pool loops", "took longer than 2 s"),
            ("pool exits", "exited with status 0"),
            ("pool of text", "str"),
            ("pool asks for a billion", "1,000,000,000"),
            ("pool asks for less than nothing", "-1"),
            ("pool asks for the world", "_world"),
            ("craft fails", "ZeroDivisionError"),
            ("craft exits", "signal 6"),
            ("craft of nothing", "NoneType"),
            ("craft of fewer clients", "shape"),
        )
    ),
    *(
        Case("attack_misbehaves", "poison", ("poison() of", *reason), {"what": what}, limits=FAST)
        for what, *reason in (
            ("rows of text", "str"),
            ("rows of numbers",),
        )
    ),
]

QUESTIONS = [
    *(
        Case("asks_absurd", "finalize", (reason,), {"question": question})
        for question, reason in (
            ("a billion pairs", "from 0 to 100,000"),
            ("minus five pairs", "from 0 to 100,000"),
            ("more than 64 bits", "of many digits"),
            ("numbers as prompts", "int where a text belongs"),
            ("too long a prompt", "50,000 characters"),
            ("example of another kind", "a training row that is none"),
            ("half a character", "not Unicode"),
            ("a count as text, past the library", "str where a whole number belongs"),
            ("a tool that there is not", "a tool that does not exist"),
            ("another argument", "something else than count"),
            ("tensors that lie nowhere", "outside the shared memory"),
            ("tensors without memory", "contradict each other"),
        )
    ),
    Case("asks_absurd", "finalize", ("17 questions, answered: []",), {"question": "all that only cost an error"}),
]

CASES = [
    Case("behaves", "aggregate", (), both=True),
    *LOADING,
    *RAISING,
    *LOOPING,
    *RETURNING,
    *MEMORY,
    *OUTPUT,
    *PROCESSES,
    *CHANNEL,
    *QUESTIONS,
    *ATTACKS,
]
_ = GIB, MIB
