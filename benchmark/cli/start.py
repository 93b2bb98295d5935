"""The entry of the console command: a process in UTF-8 mode with open standard streams.

Nothing heavy is imported before the process has its mode, because a change of mode starts the interpreter again.
"""

from __future__ import annotations

import codecs
import locale
import os
import signal
import sys

_RESTARTED = "FEDSAFETY_RESTARTED"
"""Environment variable of a process that has replaced itself; the option ``-E`` can keep UTF-8 mode from it."""


def main() -> None:
    """Run the command line; a process that decodes files or arguments otherwise than as UTF-8 first replaces itself."""
    if sys.platform == "win32":
        sys.exit("error: fedsafety runs on Linux and macOS; on Windows, install it in WSL and run it there")
    # The command line installs a handler of its own. Before and after it, Ctrl-C ends the process without a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    open_standard_streams()
    restarted = os.environ.pop(_RESTARTED, None)
    if not restarted and not _decodes_utf8():
        os.execve(sys.executable, sys.orig_argv, _utf8_environment())  # noqa: S606
    from benchmark.cli.leftovers import claim_folder, remove_leftovers

    if folder := claim_folder():
        remove_leftovers(folder.parent)
    from benchmark.cli.main import main as run_command_line

    run_command_line()


def open_standard_streams() -> None:
    """Open the null device on each closed standard descriptor, so that no file of rows gets its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _decodes_utf8() -> bool:
    """Return whether this process decodes names, arguments and files as UTF-8."""
    encodings = sys.getfilesystemencoding(), locale.getpreferredencoding(do_setlocale=False)
    return all(codecs.lookup(encoding).name == "utf-8" for encoding in encodings)


def _utf8_environment() -> dict[str, str]:
    """Return the environment of a process in UTF-8 mode that prints in the encoding of the present terminal."""
    streams = {"PYTHONIOENCODING": f"{sys.stdout.encoding}:replace"}
    return streams | os.environ | {"PYTHONUTF8": "1", _RESTARTED: "1"}


if __name__ == "__main__":
    main()
