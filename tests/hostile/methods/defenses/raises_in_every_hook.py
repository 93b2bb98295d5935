"""Fails in every hook, in each in another way."""

from benchmark.errors import NotApplicableError
from defenses.base import Defense, Knowledge, Stage, register


class UnprintableError(Exception):
    """Fails again when somebody wants to know why."""

    def __str__(self) -> str:
        raise RuntimeError("str() fails too")

    __repr__ = __str__


class EndlessError(Exception):
    """Never ends telling why."""

    def __str__(self) -> str:
        while True:
            pass


class Base(BaseException):
    """Passes every ``except Exception``."""


class Meta(type):
    """Makes a class whose name cannot be read."""

    def __getattribute__(cls, name: str) -> object:
        raise ValueError(f"no {name} of mine")


class NamelessError(Exception, metaclass=Meta):
    """Has no readable name."""


def chain() -> Exception:
    """Return an exception that caused itself."""
    error = RuntimeError("caused by itself")
    error.__cause__ = error
    return error


KINDS = {
    "exception": lambda hook: LookupError(f"{hook} fails"),
    "not applicable": lambda hook: NotApplicableError(f"{hook} does not apply"),
    "exit": lambda hook: SystemExit(0),
    "interrupt": lambda hook: KeyboardInterrupt(),
    "base": lambda hook: Base(f"{hook} fails"),
    "generator exit": lambda hook: GeneratorExit(f"{hook} fails"),
    "stop iteration": lambda hook: StopIteration(hook),
    "unprintable": lambda hook: UnprintableError(),
    "endless": lambda hook: EndlessError(),
    "nameless": lambda hook: NamelessError(),
    "huge": lambda hook: ValueError(f"{hook} " * 10_000_000),
    "caused by itself": lambda hook: chain(),
    "half a character": lambda hook: ValueError("\ud800\udfff \x00 end"),
    "terminal": lambda hook: ValueError("\x1b[2J\x1b]0;taken over\x07 [/bold] [link=x]y \r\n\r\nerror: forged line"),
    "group": lambda hook: BaseExceptionGroup("many", [KeyboardInterrupt(), SystemExit(3)]),
}


@register(
    title="Raises",
    description="Raises an exception in every hook; the parameter says which.",
    stages=(Stage.PREPARE, Stage.AGGREGATE, Stage.FINALIZE, Stage.SERVE),
    knowledge=Knowledge.NONE,
)
class RaisesInEveryHook(Defense):
    """One kind of exception an instance.

    Args:
        kind: Which exception is raised.
    """

    def __init__(self, kind: str = "exception") -> None:
        self.kind = kind

    def check_shape(self, participants: int, declared_malicious: int) -> None:
        """Fail."""
        raise KINDS[self.kind]("check_shape")

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Fail."""
        raise KINDS[self.kind]("degenerate_as")

    def prepare(self, server: object) -> None:
        """Fail."""
        raise KINDS[self.kind]("prepare")

    def aggregate(self, updates: object, context: object) -> None:
        """Fail."""
        raise KINDS[self.kind]("aggregate")

    def finalize(self, adapter: object, server: object) -> None:
        """Fail."""
        raise KINDS[self.kind]("finalize")

    def serve(self, prompt: object) -> None:
        """Fail."""
        raise KINDS[self.kind]("serve")
