"""Reading of a checkpoint's configuration and tokenizer.

Every reader of a checkpoint uses this module. Code in a checkpoint is never run, no question is asked on the terminal,
and a damaged file gives one error that names the folder.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benchmark.errors import FedSafetyError, UsageError
from tasks.stand_ins import stand_in_of_checkpoint

LOCAL: Final[dict[str, Any]] = {"local_files_only": True, "trust_remote_code": False}
"""Options of every ``from_pretrained``. Without the second, transformers asks on the terminal whether to run code."""

UNSTATED_LENGTH = 2048
"""Longest sequence, in tokens, of a model whose configuration names no limit, such as Bloom or Mamba."""

_LENGTHS = ("max_position_embeddings", "max_seq_len", "seq_length")
_LONGEST_REASON = 300
_LAYERS = re.compile(r"(?:layers?|blocks?|depths?)$")
"""Settings that are numbers of layers."""
_MOST_LAYERS = 2048
_SETTINGS = "tokenizer_config.json"


def read_config(folder: Path) -> Any:
    """Return the transformers configuration of a checkpoint.

    Raises:
        UsageError: It is missing or damaged, or belongs to a class that only code in the checkpoint defines.
    """
    import transformers

    hub: Any = transformers
    check_layers(folder)
    with reading(folder, "configuration"):
        config = hub.AutoConfig.from_pretrained(folder, **LOCAL)
        config.get_text_config()
    return config


def read_tokenizer(folder: Path, template: str | None = None) -> Any:
    """Return the tokenizer of a checkpoint. Of several chat templates it has the one named ``default``.

    Args:
        folder: Folder of the checkpoint.
        template: Chat template in the place of the checkpoint's own, which is then not read.

    Raises:
        UsageError: It is missing or damaged, or belongs to a class that only code in the checkpoint defines.
    """
    if template is None:
        return _tokenizer(folder)
    try:
        tokenizer = _tokenizer(folder)
    except UsageError:
        tokenizer = _tokenizer_without_template(folder)
    tokenizer.chat_template = template
    return tokenizer


def _tokenizer_without_template(folder: Path) -> Any:
    """Return the tokenizer of a checkpoint whose own chat template may be damaged.

    Raises:
        UsageError: The rest of the tokenizer is damaged, too.
    """
    with tempfile.TemporaryDirectory(prefix="fedsafety-tokenizer-") as place:
        for path in folder.iterdir():
            if path.is_file() and path.suffix != ".jinja" and path.name not in ("chat_template.json", _SETTINGS):
                (Path(place) / path.name).symlink_to(path.resolve())
        with reading(folder, "tokenizer"):
            if (folder / _SETTINGS).exists():
                settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
                settings.pop("chat_template", None)
                (Path(place) / _SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
        tokenizer = _tokenizer(Path(place), folder)
    tokenizer.name_or_path = str(folder)
    return tokenizer


def _tokenizer(folder: Path, named: Path | None = None) -> Any:
    import transformers

    hub: Any = transformers
    check_layers(named or folder)
    with reading(named or folder, "tokenizer"):
        tokenizer = hub.AutoTokenizer.from_pretrained(folder, **LOCAL)
        if isinstance(tokenizer.chat_template, dict):
            tokenizer.chat_template = tokenizer.get_chat_template()
        if isinstance(tokenizer.chat_template, str):
            tokenizer.chat_template = tokenizer.chat_template.removeprefix("\ufeff")  # a byte order mark of the file
        # A tokenizer with settings of wrong types opens, and fails on its first text.
        tokenizer.decode(tokenizer.encode("any"), skip_special_tokens=True)
    return tokenizer


def empty_model(folder: Path, config: Any) -> Any:
    """Return the causal language model of a configuration without weights, on the device ``meta``.

    Raises:
        UsageError: The configuration is not that of a causal language model.
    """
    import torch
    import transformers

    hub: Any = transformers
    with reading(folder, "configuration of a causal language model"), torch.device("meta"):
        return hub.AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def max_length(folder: Path, config: Any) -> int:
    """Return the longest sequence of a model in tokens; without a limit in the configuration :data:`UNSTATED_LENGTH`.

    Raises:
        UsageError: The limit is not a whole number from 1.
    """
    text = config.get_text_config()
    name = next((name for name in _LENGTHS if getattr(text, name, None) is not None), None)
    return UNSTATED_LENGTH if name is None else _count(folder, text, name)


def token_rows(folder: Path, config: Any) -> int:
    """Return the number of rows of a model's embedding, one for each token id.

    Raises:
        UsageError: The configuration names no such number.
    """
    return _count(folder, config.get_text_config(), "vocab_size")


@contextlib.contextmanager
def reading(folder: Path, part: str) -> Iterator[None]:
    """Turn every error of a library that reads ``part`` of a checkpoint into one error.

    Raises:
        UsageError: The library raised anything. A damaged file may raise any kind of error.
    """
    try:
        yield
    except FedSafetyError:
        raise
    except Exception as error:  # a damaged file may raise any kind of error
        raise UsageError(
            f"the {part} in {folder} cannot be read: "
            f"{cause(folder, error, 'restore it, or give the folder of a checkpoint')}"
        ) from error


def check_layers(folder: Path) -> None:
    """Refuse a configuration with more layers than any model has.

    Transformers makes lists of that length, for example of the kinds of the layers, until the memory is full. A file
    that is missing or is no JSON is left to transformers.

    Raises:
        UsageError: A number is too large.
    """
    try:
        waiting: list[Any] = [json.loads((folder / "config.json").read_text(encoding="utf-8"))]
    except (OSError, ValueError, RecursionError):
        return
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        if not isinstance(node, dict):
            continue
        waiting += node.values()
        for name, value in node.items():
            if _LAYERS.search(name) and type(value) in (int, float) and value > _MOST_LAYERS:
                raise UsageError(
                    f"the configuration in {folder} has {name[:80]} = {value!r:.80}, and at most {_MOST_LAYERS:,} are "
                    f"read; mend its config.json"
                )


def cause(folder: Path, error: BaseException, way_out: str = "restore the folder") -> str:
    """Return the reason why a checkpoint cannot be read, and the way out: of a stand-in for a file, else of ``error``.

    Args:
        folder: The checkpoint.
        error: The error of a library.
        way_out: The way out where no file of the folder is a stand-in, for example a pointer of Git LFS.
    """
    return stand_in_of_checkpoint(folder) or f"{reason(error)}; {way_out}"


def reason(error: BaseException) -> str:
    """Return an error of transformers on one line, without its advice to run code of the checkpoint."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "trust_remote_code" in text:
        return "it needs code that lies in the checkpoint, and such code is never run; take a model without auto_map"
    return f"{text[:_LONGEST_REASON]}…" if len(text) > _LONGEST_REASON else text


def _count(folder: Path, config: Any, name: str) -> int:
    value: Any = getattr(config, name, None)
    if type(value) is not int or value < 1:
        raise UsageError(
            f"the configuration in {folder} has {name} = {value!r:.80}, and a whole number from 1 was expected; mend "
            f"its config.json"
        )
    return value
