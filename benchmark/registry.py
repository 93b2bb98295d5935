"""One typed registry for everything that has a name: attacks, defenses, scenarios, suites, judges, tasks.

A registry lists its names without an import: built-in names are the files of its package, and outside names come from
an entry-point group. Looking a name up imports its module, whose decorator hands over the class with its metadata. The
set of names is fixed at first use. Later additions are refused, so that a run cannot change its own methods.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from benchmark.errors import FedSafetyError, UsageError, unknown_name
from benchmark.moved import import_problem


class Trait(StrEnum):
    """Properties that a method declares, for example ``traits=("generates",)``; the contract checks each of them."""

    STATEFUL_PER_CLIENT = "stateful_per_client"
    """The method remembers clients by their ids between rounds."""
    GENERATES = "generates"
    """The method calls ``generate``: a defense on the trained model, an attack on the attacker's model."""
    GENERATES_EXTERNAL = "generates_external"
    """The defense calls ``generate_external``, which loads a second model."""
    GENERATES_UNALIGNED = "generates_unaligned"
    """The defense calls ``generate_unaligned``, which may load a second model."""


class Info(BaseModel):
    """Metadata of every registered class; listings, the documentation and the page show it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    longest: ClassVar[Mapping[str, int]] = {"id": 64, "title": 60, "description": 800, "paper": 500}
    """Most characters of a field; of every other text :data:`LONGEST`."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Registry key = file name = value in result columns."""
    title: str = Field(min_length=1)
    """Short human name."""
    description: str = Field(min_length=20)
    """One paragraph: what it does, in plain words."""
    paper: str = ""
    """Source: authors, year and arXiv id or venue; empty where there is none."""
    traits: tuple[Trait, ...] = ()
    """Declared properties."""

    @field_validator("*")
    @classmethod
    def _can_be_shown(cls, value: Any, field: ValidationInfo) -> Any:
        if type(value) is str:
            check_shown(value, cls.longest.get(str(field.field_name), LONGEST), name=field.field_name == "title")
        return value


LONGEST = 300
"""Most characters of a text of the metadata that has no bound of its own."""
_MARKS = 2
"""Most accents on one letter."""
_INVISIBLE = re.compile(
    "[\\u034f\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u3164\\ufe00-\\ufe0f\\uffa0\\U000e0100-\\U000e01ef]"
)
"""Letters and marks that Unicode asks every font to draw as nothing."""
_ALPHABETS = ("ARMENIAN", "CHEROKEE", "COPTIC", "CYRILLIC", "LISU")
"""Alphabets with letters that look like Latin ones, as they begin the Unicode names of their letters."""
_SIGNS = tuple("-+=@")
"""First characters by which a command line sees an option, and a spreadsheet sees a formula."""


def check_shown(value: str, longest: int, *, name: bool = False) -> None:
    """Refuse a text that a page cannot show on one line, or that would fill the page.

    Args:
        value: The text.
        longest: Most characters.
        name: Whether it is a name, which has a letter, single blanks between its words and no sign before its first
            word.

    Raises:
        ValueError: It is too long, has other characters than letters, digits, punctuation, signs and blanks, or has a
            word in two alphabets. Only a name may not mix Greek letters with Latin ones, because formulas do.
    """
    if len(value) > longest:
        raise ValueError(f"{value[:40]!r}… has {len(value):,} characters; at most {longest} are shown; shorten it")
    odd = next((c for c in value if not c.isprintable() or unicodedata.category(c) == "So" or _INVISIBLE.match(c)), "")
    if odd:
        raise ValueError(
            f"{value[:40]!r} holds characters that cannot be shown on one line, such as U+{ord(odd):04X}; use letters, "
            f"digits, punctuation and single blanks"
        )
    accents = 0
    for character in value:
        accents = accents + 1 if unicodedata.combining(character) else 0
        if accents > _MARKS:
            raise ValueError(f"{value[:40]!r} has more than {_MARKS} accents on one letter; leave them out")
    if mixed := _mixed_word(value, ("GREEK", *_ALPHABETS) if name else _ALPHABETS):
        raise ValueError(f"{mixed[:40]!r} has letters of two alphabets; write each word in a single alphabet")
    if name and value.startswith(_SIGNS):
        raise ValueError(f"{value!r} begins with {value[0]!r}; begin a name with a letter or a digit")
    if name and (value != " ".join(value.split()) or not any(c.isalpha() for c in value)):
        raise ValueError(f"{value!r} is no name: use at least one letter, and single blanks between words")


def _mixed_word(text: str, alphabets: tuple[str, ...]) -> str:
    """Return the first word of ``text`` with Latin letters and letters of ``alphabets``; empty if there is none."""
    letters = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    for word in re.findall(r"[^\W\d_]+", letters):
        names = [unicodedata.name(letter, "") for letter in word]
        if any(name.startswith("LATIN") for name in names) and any(name.startswith(alphabets) for name in names):
            return str(word)
    return ""


def problems_of(error: ValidationError) -> str:
    """Return the words of a validation error, without pydantic's prefix for our own."""
    found = ((".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors())
    return "; ".join(f"{place}: {message}" for place, message in found)


InfoT = TypeVar("InfoT", bound=Info)
T = TypeVar("T")
ItemT = TypeVar("ItemT")


class NameIndex(ABC, Generic[ItemT]):
    """Names that can be listed without an import; each is loaded on demand.

    Args:
        kind: What the names denote, for error messages (``"defense"``).
        group: Entry-point group by which outside packages add names.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._sources: dict[str, tuple[str, str]] | None = None

    def names(self) -> list[str]:
        """Return all names, sorted, without loading any."""
        return sorted(self._discover())

    @abstractmethod
    def get(self, name: str) -> ItemT:
        """Return the item called ``name``; raise a :class:`UsageError` with the nearest name if it is unknown."""

    def entries(self) -> list[ItemT]:
        """Return everything, sorted by name."""
        return [self.get(name) for name in self.names()]

    @abstractmethod
    def _built_in(self) -> dict[str, str]:
        """Return the built-in names with where they are loaded from."""

    def _source(self, name: str) -> tuple[str, str]:
        """Return (where to load from, origin) of ``name``."""
        sources = self._discover()
        if name not in sources:
            raise unknown_name(self.kind, name, sources)
        return sources[name]

    def _discover(self) -> dict[str, tuple[str, str]]:
        """Return name → (where to load from, origin), fixed at first use."""
        if self._sources is None:
            sources = {name: (where, "built-in") for name, where in self._built_in().items()}
            for point in entry_points(group=self.group):
                origin = point.dist.name if point.dist else "unknown distribution"
                if point.name in sources:
                    raise UsageError(
                        f"{self.kind} {point.name!r} of {origin!r} has the name of one that is "
                        f"{sources[point.name][1]}; rename its entry point in group {self.group!r}"
                    )
                sources[point.name] = (point.module, origin)
            self._sources = sources
        return self._sources


@dataclass(frozen=True)
class Entry(Generic[InfoT, T]):
    """A registered class with its metadata and where it came from."""

    info: InfoT
    target: type[T]
    origin: str
    """``built-in`` or the distribution that offers it."""
    digest: str = ""
    """Digest of the normalised source, where the module of ``target`` cannot give it."""

    @property
    def source_digest(self) -> str:
        """Digest of the normalised source; part of every key that depends on this method."""
        if self.digest:
            return self.digest
        # Imported here because the process of a sandboxed method has no benchmark.keys.
        from benchmark.keys import source_digest

        return source_digest(self.target.__module__)

    def create(self, params: Mapping[str, Any] | None = None) -> T:
        """Return a fresh instance.

        Raises:
            UsageError: A parameter is unknown (names the nearest valid one) or its value is refused.
        """
        arguments = dict(params or {})
        accepted = inspect.signature(self.target).parameters
        for key in arguments:
            if key not in accepted:
                raise unknown_name(f"parameter of {self.info.id!r}", key, accepted)
        try:
            return self.target(**arguments)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{self.info.id!r} refuses the parameters {arguments}: {error}") from error


class Registry(NameIndex[Entry[InfoT, T]], Generic[InfoT, T]):
    """Classes with metadata, one per module of a package, named as the module.

    Args:
        kind: What the names denote, for error messages (``"defense"``).
        info_type: The metadata model; registration fails without the required fields.
        package: Package whose public modules are the built-in entries.
        not_entries: Module names in that package that are not entries.
        nested: Modules inside an entry's package that are entries too. The id joins the names by an underscore: the id
            of ``micro.fresh`` is ``micro_fresh``.
        bridges: Functions that make entries of other libraries, as ``module:function`` by the library's name; see
            :meth:`resolve`.
    """

    def __init__(
        self,
        kind: str,
        info_type: type[InfoT],
        package: str,
        not_entries: tuple[str, ...] = ("base",),
        nested: tuple[str, ...] = (),
        bridges: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(kind, f"fedsafety.{package.rpartition('.')[2]}")
        self._info_type = info_type
        self._package = package
        self._not_entries = frozenset(not_entries)
        self._nested = nested
        self._bridges = dict(bridges or {})
        self._entries: dict[str, Entry[InfoT, T]] = {}
        self._files: dict[str, Path] = {}

    @property
    def package(self) -> str:
        """Package whose public modules are the built-in entries."""
        return self._package

    @property
    def info_type(self) -> type[InfoT]:
        """Metadata model of the entries."""
        return self._info_type

    def get(self, name: str) -> Entry[InfoT, T]:
        """Return the entry called ``name``, importing its module on first use.

        Raises:
            UsageError: No such name (suggests the nearest), or the module does not register itself under its name.
        """
        module, origin = self._source(name)
        if name not in self._entries:
            _import(module, f"{self.kind} {name!r} of {origin!r}", self._files.get(module))
            if name not in self._entries:
                raise UsageError(
                    f"module {module!r} registers no {self.kind} called {name!r}; "
                    f"decorate its class with @register(title=..., description=...)"
                )
        return self._entries[name]

    def resolve(self, text: str) -> Entry[InfoT, T]:
        """Return the entry that ``text`` names: an entry of this registry, or ``library:Name`` of another library.

        For example, ``byzfl:TrMean(f=3)`` is made by the bridge of ``byzfl``, whose module is imported at first use.

        Raises:
            UsageError: The name or the library is unknown (suggests the nearest), or the bridge refuses the name.
        """
        library, colon, _ = text.partition(":")
        if not colon:
            return self.get(text)
        if library.strip() not in self._bridges:
            raise unknown_name(f"library of {self._package}", library.strip(), self._bridges)
        module, _, function = self._bridges[library.strip()].partition(":")
        entry: Entry[InfoT, T] = getattr(importlib.import_module(module), function)(text)
        return entry

    def register(self, **metadata: Any) -> Callable[[type[T]], type[T]]:
        """Return the class decorator that registers a class under its module's file name.

        Args:
            **metadata: The fields of the registry's metadata model except ``id``.

        Raises:
            UsageError: Metadata is missing or malformed, the name is taken, or the registry is already frozen and the
                name was not discovered.
        """

        def decorate(target: type[T]) -> type[T]:
            name = self._name_of(target.__module__)
            if "id" in metadata:
                raise UsageError(
                    f"{self.kind} {name!r} is registered with id={metadata['id']!r}; the id is the name of the file or "
                    f"of the entry point: leave it out"
                )
            try:
                info = self._info_type(id=name, **metadata)
            except ValidationError as error:
                raise UsageError(f"{self.kind} {name!r} has unusable metadata: {problems_of(error)}") from error
            if name in self._entries:
                taken = self._entries[name].target
                if (taken.__module__, taken.__qualname__) != (target.__module__, target.__qualname__):
                    raise UsageError(
                        f"{self.kind} {name!r} is registered twice, by {taken.__module__}.{taken.__qualname__} and by "
                        f"{target.__module__}.{target.__qualname__}; rename one"
                    )
            sources = self._discover()
            if name not in sources:
                raise UsageError(
                    f"{self.kind} {name!r} comes too late: the registry is frozen after load; put the file into "
                    f"{self._package.replace('.', '/')}/ or declare it in the entry-point group {self.group!r}"
                )
            self._entries[name] = Entry(info=info, target=target, origin=sources[name][1])
            return target

        return decorate

    def holder(self, name: str) -> tuple[str, str]:
        """Return the module that registers ``name`` and where it comes from, without importing it.

        Raises:
            UsageError: No such name (suggests the nearest).
        """
        return self._source(name)

    def files(self, name: str) -> dict[str, Path]:
        """Return the file that stands for the module of ``name``; empty if the module is an ordinary one."""
        module, _ = self._source(name)
        return {module: self._files[module]} if module in self._files else {}

    def adopt(self, name: str, module: str, origin: str, path: Path) -> None:
        """Let the file ``path`` stand for ``module``, which registers ``name``; the first look-up imports it.

        Raises:
            UsageError: The name is taken by another module.
        """
        self._claim(name, module, origin)
        self._files[module] = path

    def adopt_entry(self, entry: Entry[InfoT, T], module: str) -> None:
        """Add a ready entry that stands for ``module``; the module is not imported.

        Raises:
            UsageError: The name is taken by another module.
        """
        self._claim(entry.info.id, module, entry.origin)
        self._entries[entry.info.id] = entry

    def _claim(self, name: str, module: str, origin: str) -> None:
        sources = self._discover()
        where, holder = sources.setdefault(name, (module, origin))
        if where != module:
            raise UsageError(
                f"{self.kind} {name!r} of {origin} has the name of one that is {holder}; give it another id"
            )

    def _built_in(self) -> dict[str, str]:
        package = importlib.import_module(self._package)
        files = [
            module.name
            for module in pkgutil.iter_modules(package.__path__)
            if module.name not in self._not_entries and not module.name.startswith("_")
        ]
        return {module.replace(".", "_"): f"{self._package}.{module}" for module in (*files, *self._nested)}

    def _name_of(self, module: str) -> str:
        """Return the name that a module registers; a module of an outside package may have any name."""
        owners = {
            where: name
            for name, (where, _) in self._discover().items()
            if module == where or module.startswith(f"{where}.")
        }
        # The longest path is the nearest owner: tasks.micro.fresh belongs to micro_fresh, not to micro.
        return owners[max(owners, key=len)] if owners else module.rpartition(".")[2]


def _import(module: str, what: str, path: Path | None = None) -> None:
    try:
        if path is None or module in sys.modules:
            importlib.import_module(module)
        else:
            _load(module, path)
    except FedSafetyError:
        raise
    except (Exception, SystemExit) as error:  # an outside package may fail in any way
        if problem := import_problem(error):
            raise UsageError(f"{what} {problem}") from error
        raise UsageError(
            f"{what} cannot be imported from {str(path) if path else f'module {module!r}'}: {type(error).__name__}: "
            f"{error}; mend or uninstall it"
        ) from error


def _load(name: str, path: Path) -> ModuleType:
    """Import the file ``path`` as the module ``name``."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file; name one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
