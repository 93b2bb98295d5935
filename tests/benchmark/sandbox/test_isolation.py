"""What a process inside can see and reach: nothing but what it was given."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import SandboxUnavailableError, UsageError
from benchmark.sandbox import isolation as module
from benchmark.sandbox.bubblewrap import Bubblewrap
from benchmark.sandbox.isolation import Isolation, find_isolation, start
from benchmark.sandbox.layout import Kind, Mount, layout
from benchmark.sandbox.limits import MIB, Limits
from benchmark.sandbox.namespaces import Namespaces

from .conftest import Run

pytestmark = pytest.mark.sandbox
ROOT = Path(__file__).resolve().parents[3]
Answer = Callable[..., Any]


def test_module_runs_with_its_arguments_in_safe_path_mode(answer: Answer) -> None:
    found = answer(
        "print(json.dumps([__name__, sys.argv[1:], sys.flags.safe_path, os.getcwd(), sys.path[0]]))", args=["a", "b c"]
    )
    assert found == ["__main__", ["a", "b c"], True, "/tmp", "/fedsafety"]


def test_no_file_of_the_host_but_the_interpreter_and_libraries(answer: Answer, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    wanted = [
        str(tmp_path / "secret"),
        str(ROOT / "pyproject.toml"),
        str(ROOT / "results"),
        str(ROOT / "benchmark"),
        str(ROOT / "tasks"),
        str(ROOT / ".git"),
        str(Path.home() / ".cache"),
        "/etc/passwd",
        "/etc/hosts",
        "/usr/bin",
        "/bin/sh",
        "/home",
        "/var",
        "/opt",
        "/boot",
        "/sys",
        "/dev/sda",
        "/dev/vda",
        "/dev/mem",
        "/dev/kvm",
    ]
    # The interpreter and its libraries are there, and thus the folders above them, which hold nothing else.
    kept = [Path(sys.prefix), Path(sys.base_prefix)]
    wanted = [path for path in wanted if not any(place.is_relative_to(path) for place in kept)]
    found = answer(
        """
        everything = [os.path.join(folder, name) for folder, folders, files in os.walk("/", onerror=None)
                      if not folder.startswith(("/proc", "/sys", "/usr", "/lib")) for name in files]
        print(json.dumps([[path for path in sys.argv[1:] if os.path.lexists(path)], os.listdir("/"), everything]))
        """,
        Limits(output_bytes=64 * MIB),
        args=wanted,
    )
    seen, top, everything = found
    assert seen == []
    assert set(top) <= {"dev", "etc", "fedsafety", "lib", "lib32", "lib64", "proc", "run", "tmp", "usr"} | {
        Path(sys.prefix).parts[1],
        Path(sys.base_prefix).parts[1],
    }
    interpreter = (f"{sys.prefix}/", f"{sys.base_prefix}/", "/etc/alternatives/", "/dev/")
    others = {path for path in everything if not path.startswith(interpreter)}
    assert others == {"/etc/ld.so.cache", "/fedsafety/inside.py", "/fedsafety/seccomp.py", "/run/boot.py"}


def test_the_benchmark_and_its_plug_ins_cannot_be_imported(answer: Answer) -> None:
    found = answer(
        """
        import importlib, importlib.metadata
        names = ["attacks.base", "benchmark.judges.base", "defenses.base", "leaderboard.rows.rows", "tasks.micro"]
        points = [point for each in importlib.metadata.distributions() for point in each.entry_points]
        own = [point.name for point in points if point.group.startswith("fedsafety")]
        print(json.dumps([[attempt(lambda: importlib.import_module(name)) for name in names], own]))
        """
    )
    assert found == [["ModuleNotFoundError"] * 5, []]


def test_environment_is_a_fixed_one(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSAFETY_SECRET", "secret")
    monkeypatch.setenv("PYTHONSTARTUP", "/secret")
    found = answer("print(json.dumps(dict(os.environ)))")
    assert found.pop("PWD", "/tmp") == "/tmp"
    assert "secret" not in json.dumps(found)
    assert {
        "HOME": "/tmp",
        "PYTHONPATH": "/fedsafety",
        "OMP_NUM_THREADS": "1",
        "LANG": "C.UTF-8",
    }.items() <= found.items()
    assert set(found) == {*module.environment()}


def test_no_other_process_is_seen_and_none_of_their_memory(answer: Answer) -> None:
    found = answer(
        f"""
        numbers = [name for name in os.listdir("/proc") if name.isdigit()]
        names = ("mem", "environ", "cmdline", "fd/0")
        places = [f"/proc/{{pid}}/{{name}}" for pid in (1, {os.getpid()}) for name in names]
        tried = [attempt(lambda: open(place, "rb")) for place in places]
        parent = os.getppid()
        print(json.dumps([sorted(numbers), tried, parent, attempt(lambda: os.kill({os.getpid()}, 0))]))
        """
    )
    numbers, tried, parent, signalled = found
    assert numbers == ["1", "2"]
    assert parent == 1
    assert tried == ["FileNotFoundError"] * 8
    assert signalled == "ProcessLookupError"


def test_nothing_can_be_written_but_scratch(answer: Answer) -> None:
    places = ["/", "/dev", "/etc", "/fedsafety", "/run", "/usr/lib", sys.prefix + "/lib"]
    files = ["/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory", "/proc/self/oom_score_adj"]
    found = answer(
        """
        def write(path):
            with open(path, "a") as stream:
                stream.write("")
            return "written"
        print(json.dumps([attempt(lambda: write(path)) for path in sys.argv[1:]]))
        """,
        args=[*(f"{place}/new" for place in places), *files, "/fedsafety/inside.py", "/tmp/new", "/dev/shm/new"],
    )
    assert found[-2:] == ["did: written"] * 2
    assert set(found[:-2]) <= {"OSError", "PermissionError"}


def test_no_network_even_to_this_machine(answer: Answer) -> None:
    name = f"\0fedsafety-{os.getpid()}"
    reached = []
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(name)
        local.listen()
        for listening in (server, local):
            listening.settimeout(0.2)
        found = answer(
            f"""
            def connect(family, address):
                with socket.socket(family) as client:
                    client.settimeout(2)
                    client.connect(address)
            print(json.dumps([
                attempt(lambda: connect(socket.AF_INET, ("127.0.0.1", {server.getsockname()[1]}))),
                attempt(lambda: connect(socket.AF_INET, ("1.1.1.1", 53))),
                attempt(lambda: connect(socket.AF_UNIX, {name!r})),
                [name for _, name in socket.if_nameindex()],
            ]))
            """
        )
        for listening in (server, local):
            try:
                listening.accept()
                reached.append(listening)
            except TimeoutError:
                pass
    assert reached == []
    assert not [each for each in found[:3] if each.startswith("did")]
    assert found[3] == ["lo"]


def test_no_privilege_is_left_and_no_namespace_can_be_made(answer: Answer) -> None:
    found = answer(
        """
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        libc = ctypes.CDLL(None, use_errno=True)
        made = [libc.unshare(flag) for flag in (0x10000000, 0x00020000, 0x40000000)]
        mounted = libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None)
        print(json.dumps([[status[name].strip() for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")],
                          status["NoNewPrivs"].strip(), made, mounted, os.getuid(), os.getgid(), os.getsid(0) > 0]))
        """
    )
    assert found == [["0" * 16] * 5, "1", [-1] * 3, -1, 65534, 65534, True]


def test_only_descriptors_that_are_passed_are_open(answer: Answer) -> None:
    readable, writable = os.pipe()
    os.set_inheritable(readable, True)
    os.set_inheritable(writable, True)
    memory = os.memfd_create("arena")
    os.write(memory, b"shared")
    try:
        found = answer(
            f"""
            listed = {{int(name): os.readlink(f"/proc/self/fd/{{name}}") for name in os.listdir("/proc/self/fd")
                      if os.path.lexists(f"/proc/self/fd/{{name}}")}}
            print(json.dumps([sorted(listed), os.pread({memory}, 6, 0).decode()]))
            """,
            pass_fds=[memory],
        )
    finally:
        for descriptor in (readable, writable, memory):
            os.close(descriptor)
    assert found == [[0, 1, 2, memory], "shared"]


HOST = ("/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero", "/dev/tty", json.__file__, sys.executable)


def state_of_host() -> dict[str, tuple[int, ...]]:
    """Return mode, owner and times of files of the host that a sandbox uses."""
    states = {path: os.stat(path) for path in HOST if os.path.exists(path)}
    return {path: (s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns, s.st_ctime_ns) for path, s in states.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bubblewrap", "namespaces"])
@pytest.mark.parametrize("rights", ["those that were found", "those of the user"])
def test_no_attribute_and_no_lock_of_the_host_can_be_changed(name: str, rights: str) -> None:
    chosen = find_isolation(name)
    if rights == "those of the user":  # which root keeps where nobody may not read the interpreter
        chosen = replace(chosen, user=None)
    program = Path(__file__).with_name("changes.py")
    files = {"/fedsafety/changes.py": program, "/fedsafety/seccomp.py": Path(module.__file__).with_name("seccomp.py")}
    memory = os.memfd_create("arena")
    before = state_of_host()
    try:
        with start(chosen, "changes", visible=files, limits=Limits(), pass_fds=[memory]) as process:
            assert process.wait(60)
            paths, descriptors, groups, mapped, unfiltered, filtered = json.loads(process.output())
    finally:
        os.close(memory)
    assert state_of_host() == before
    assert {"/dev/null", "/dev/urandom"} <= set(paths)
    assert descriptors == 4
    assert (groups, len(mapped), mapped[0][2]) == ([], 1, "1")
    assert unfiltered == {}
    assert filtered == {}


def test_files_inside_are_copies(answer: Answer) -> None:
    state = os.stat(Path(module.__file__).with_name("seccomp.py"))
    code = "s = os.stat('/fedsafety/seccomp.py'); print(json.dumps([s.st_dev, s.st_ino]))"
    assert answer(code) != [state.st_dev, state.st_ino]


@pytest.mark.usefixtures("tried_anew")
def test_a_sandbox_whose_nodes_can_be_changed_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = "it owns /dev/null of the host"
    monkeypatch.setattr(module, "_problem", lambda isolation: said)
    with pytest.raises(SandboxUnavailableError, match=f"bubblewrap: {said}; namespaces: {said}"):
        find_isolation()


@pytest.mark.usefixtures("tried_anew")
def test_root_prefers_the_way_that_gives_up_its_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setitem(module._FINDERS, "bubblewrap", lambda: Bubblewrap("1", "bwrap"))
    monkeypatch.setitem(module._FINDERS, "namespaces", lambda: Namespaces("1"))
    module._tried.cache_clear()
    monkeypatch.setattr(module, "_problem", lambda way: "no" if (way.name, way.user) == ("bubblewrap", 65534) else "")
    assert (find_isolation().name, find_isolation().user) == ("namespaces", 65534)
    assert (find_isolation("bubblewrap").name, find_isolation("bubblewrap").user) == ("bubblewrap", None)
    monkeypatch.setattr(module, "_problem", lambda way: "no" if way.user else "")
    module._tried.cache_clear()
    assert (find_isolation().name, find_isolation().user) == ("bubblewrap", None)


def test_torch_computes_the_same_inside(answer: Answer) -> None:
    import torch

    code = """
    import torch
    torch.set_num_threads(1)
    a = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    results = (a @ a, torch.linalg.svdvals(a), a.exp(), a.mean(dim=0))
    values = [result.double().sum().item() for result in results]
    """
    inside = answer(
        code + "print(json.dumps([values, torch.backends.cpu.get_cpu_capability(), torch.__version__]))\n",
        filtered=True,
    )
    threads = torch.get_num_threads()
    space: dict[str, Any] = {}
    try:
        exec("\n".join(line.strip() for line in code.splitlines()), space)
    finally:
        torch.set_num_threads(threads)
    assert inside == [space["values"], torch.backends.cpu.get_cpu_capability(), torch.__version__]


def test_output_inside_the_limit_is_whole_and_without_control_characters(begin: Run) -> None:
    with begin("print('a\\x1b[31mb'); print('é', file=sys.stderr); sys.exit(3)") as process:
        assert process.wait(30)
        assert process.output() == "a[31mb\né\n"
        assert process.died_of() == "exited with status 3"


def test_killing_signals_and_exceptions_are_named(begin: Run) -> None:
    with begin("os.kill(os.getpid(), 11)") as process:
        assert process.wait(30)
        assert process.died_of() == "was killed by signal 11 (Segmentation fault)"
    with begin("raise ValueError('because')") as process:
        assert process.wait(30)
        assert process.died_of() == "exited with status 1"
        assert process.output().endswith("ValueError: because\n")


def test_missing_file_is_refused_before_anything_starts(isolation: Isolation, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a regular file"):
        start(isolation, "x", visible={"/fedsafety/x.py": tmp_path / "none.py"}, limits=Limits())
    with pytest.raises(UsageError, match="not an absolute path inside"):
        start(isolation, "x", visible={"/fedsafety/../x.py": Path(__file__)}, limits=Limits())


def test_unknown_way_of_isolating_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'bubblewrap'"):
        find_isolation("bubblewarp")


def test_platform_without_isolation_is_told_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = {"bubblewrap": "bwrap is not installed", "namespaces": "Linux 4.4 is too old"}
    monkeypatch.setattr(module, "_tried", reasons.__getitem__)
    with pytest.raises(SandboxUnavailableError) as caught:
        find_isolation()
    for said in (*reasons, *reasons.values(), "bubblewrap"):
        assert said in str(caught.value)


@pytest.fixture
def tried_anew() -> Iterator[None]:
    """Let trials be made again, in the test and after it."""
    module._tried.cache_clear()
    yield
    module._tried.cache_clear()


@pytest.mark.usefixtures("tried_anew")
def test_another_system_is_told_that_it_needs_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    with pytest.raises(SandboxUnavailableError, match=r"Darwin has no namespaces.*use a Linux machine"):
        find_isolation()


@pytest.mark.usefixtures("tried_anew")
def test_a_sandbox_that_leaks_is_not_used(monkeypatch: pytest.MonkeyPatch, isolation: Isolation) -> None:
    leak = Mount(Kind.BIND, str(Path.home() / ".cache"), str(ROOT / "docs"))
    monkeypatch.setattr(module, "layout", lambda visible: (*layout(visible), leak))
    module._tried.cache_clear()
    with pytest.raises(SandboxUnavailableError, match=r"exited with status 0: it sees .*\.cache"):
        find_isolation(isolation.name)


@pytest.mark.usefixtures("tried_anew")
def test_bubblewrap_that_does_not_work_gives_its_own_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text(
        "#!/bin/sh\n[ $1 = --version ] && echo bubblewrap 0.8.0 && exit\necho No permissions >&2; exit 1\n"
    )
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(SandboxUnavailableError, match="bubblewrap cannot start a sandbox: No permissions"):
        find_isolation("bubblewrap")
    assert find_isolation("auto").name == "namespaces"


def test_missing_and_old_bubblewrap_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from benchmark.sandbox.bubblewrap import find_bubblewrap

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailableError, match="apt-get install bubblewrap"):
        find_bubblewrap()
    old = tmp_path / "bwrap"
    old.write_text("#!/bin/sh\necho bubblewrap 0.7.0\n")
    old.chmod(0o755)
    with pytest.raises(SandboxUnavailableError, match=r"0\.7\.0 is too old; version 0\.8\.0"):
        find_bubblewrap()


def test_sandboxes_run_side_by_side(begin: Run) -> None:
    processes = [begin("time.sleep(60)") for _ in range(4)]
    assert [process.alive() for process in processes] == [True] * 4
    threads = [threading.Thread(target=process.kill) for process in processes[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.alive() for process in processes] == [True, False, False, False]
    processes[0].kill()
    assert processes[0].died_of() == "was stopped"
