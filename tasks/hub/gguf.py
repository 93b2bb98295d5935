"""Conversion of a GGUF file into a checkpoint folder: safetensors, configuration, tokenizer and chat template.

The weights are stored in float32, the format in which the quantised blocks of a GGUF file are unpacked. A suite that
names bfloat16 rounds them when it opens the model, to the same numbers as a conversion to bfloat16 would. A suite that
names float32 loses nothing. So one folder, with one identity, serves all number formats, for twice the disk space.
"""

from __future__ import annotations

import errno
import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, Final

from benchmark.errors import FedSafetyError, UsageError
from tasks.hub.digests import file_sha256
from tasks.hub.fetching import Say

CONVERSION: Final = "1"
"""Version of the conversion. A change that can alter a converted model increases it."""
RECORD: Final = "conversion.json"
"""File of a converted folder that names its source and the SHA-256 of its other files."""

_LOCAL: Final[dict[str, Any]] = {"local_files_only": True, "trust_remote_code": False}
_QUESTION: Final = "Name three fruits and say in one sentence how they differ."
_ANSWER_TOKENS: Final = 16
_LARGEST_DIFFERENCE: Final = 1e-4
"""Largest difference of a logit between the two models. They hold equal weights, so that only the order of sums may
differ."""


def gguf_identity(file_sha256: str) -> str:
    """Return the identity of the model that a GGUF file is converted to; no file is read.

    Example: ``gguf/1:sha256:5f…``.
    """
    return f"gguf/{CONVERSION}:sha256:{file_sha256}"


def converted_identity(folder: Path) -> str:
    """Return the identity that the record of a converted folder names, or empty text.

    The text is empty without a record, and where a file was changed, added or removed since the conversion.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        identity, files = record["identity"], record["files"]
        present = {path.name: file_sha256(path) for path in folder.iterdir() if path.name != RECORD}
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return str(identity) if files == present else ""


def convert(weights: Path, folder: Path, title: str, say: Say) -> None:
    """Write the model of a GGUF file as a checkpoint into an empty folder, and compare the two models.

    Args:
        weights: GGUF file.
        folder: Empty folder.
        title: Name of the model in messages.
        say: Shows progress.

    Raises:
        UsageError: The package ``gguf`` is missing, or the file's architecture or quantisation cannot be read.
        FedSafetyError: The converted model answers otherwise than the file's model.
    """
    digest = file_sha256(weights)
    form = _form(weights, title)
    say(f"converting {title} ({form}) to safetensors; this takes about half a minute")
    with _quiet(), _readable(title, form):
        model, tokenizer = _opened(weights)
        expected = _answers(model, tokenizer)
        _save(_plain(model), folder)
        tokenizer.save_pretrained(folder)
        del model
        found = _answers(*_reopened(folder))
    difference = _difference(expected, found)
    if difference:
        raise FedSafetyError(
            f"model {title} was converted from GGUF, and the converted model differs from it: {difference}; use the "
            f"versions of transformers and gguf that requirements.lock pins"
        )
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    record = {"identity": gguf_identity(digest), "files": files}
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _form(weights: Path, title: str) -> str:
    """Return architecture and quantisations of a GGUF file, such as ``llama, F32, Q4_1``, from its header."""
    try:
        import gguf
    except ImportError as error:
        raise UsageError(
            f"model {title} is a GGUF file, which takes the package gguf; install 'fedsafetybench[hub]', or put the "
            f"model below a folder named by --model-root"
        ) from error
    try:
        reader = gguf.GGUFReader(str(weights))
        field = reader.get_field("general.architecture")
        architecture = str(field.contents()) if field is not None else "unnamed architecture"
        kinds = sorted({tensor.tensor_type.name for tensor in reader.tensors})
    except Exception as error:  # a damaged file may raise any kind of error
        raise UsageError(
            f"model {title} cannot be read as a GGUF file: {_reason(error)}; name another file in the suite's package"
        ) from error
    return ", ".join([architecture, *kinds])


def _opened(weights: Path) -> tuple[Any, Any]:
    """Return model, in float32, and tokenizer of a GGUF file."""
    import torch
    import transformers

    hub: Any = transformers
    options = {"gguf_file": weights.name, **_LOCAL}
    # Without this setting, transformers may keep the blocks packed and fetch a kernel that multiplies them.
    unpacked = hub.GgufConfig(dequantize=True)
    model = hub.AutoModelForCausalLM.from_pretrained(
        weights.parent, dtype=torch.float32, quantization_config=unpacked, **options
    )
    return model.eval(), hub.AutoTokenizer.from_pretrained(weights.parent, **options)


def _reopened(folder: Path) -> tuple[Any, Any]:
    import torch
    import transformers

    hub: Any = transformers
    model = hub.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **_LOCAL)
    return model.eval(), hub.AutoTokenizer.from_pretrained(folder, **_LOCAL)


def _plain(model: Any) -> Any:
    """Return a model of the same class and weights that can be saved: the opened one counts as quantised."""
    import torch
    import transformers

    hub: Any = transformers
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.float32
    with torch.device("meta"):
        plain = hub.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    # Share the tensors instead of copying them, because a second copy would double the memory.
    plain.load_state_dict(model.state_dict(), strict=True, assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain


def _save(model: Any, folder: Path) -> None:
    from safetensors import SafetensorError

    try:
        model.save_pretrained(folder, max_shard_size="1000GB")
    except SafetensorError as error:  # it reports a full disk, too
        raise OSError(errno.EIO, _reason(error)) from error


def _answers(model: Any, tokenizer: Any) -> tuple[list[int], Any, list[int]]:
    """Return a prompt's token ids, the logits behind its last token, and the likeliest answer."""
    import torch

    turns = [{"role": "user", "content": _QUESTION}]
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    else:
        text = _QUESTION
    ids = tokenizer.encode(text, add_special_tokens=False)
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, -1].float()
        answer = list(ids)
        for _ in range(_ANSWER_TOKENS):
            answer.append(int(model(torch.tensor([answer])).logits[0, -1].argmax()))
    return ids, logits, answer[len(ids) :]


def _difference(expected: tuple[list[int], Any, list[int]], found: tuple[list[int], Any, list[int]]) -> str:
    """Return how two results of :func:`_answers` differ; empty if they agree."""
    if expected[0] != found[0]:
        return "its tokenizer splits a prompt into other tokens"
    largest = float((expected[1] - found[1]).abs().max())
    if not largest <= _LARGEST_DIFFERENCE:
        return f"logits differ by up to {largest:.2g}"
    return "" if expected[2] == found[2] else "its likeliest answer to a prompt has other tokens"


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide progress bars and warnings of transformers. One of its bars ignores its own setting."""
    import transformers

    library = transformers.utils.logging
    logger = logging.getLogger("transformers")
    level, bars = logger.level, library.is_progress_bar_enabled()
    library.disable_progress_bar()  # type: ignore[no-untyped-call]
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        if bars:
            library.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def _readable(title: str, form: str) -> Iterator[None]:
    try:
        yield
    except (FedSafetyError, MemoryError):
        raise
    except Exception as error:  # transformers and gguf raise many kinds of error for what they cannot read
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UsageError(
            f"model {title} is a GGUF file ({form}) that transformers cannot read: {_reason(error)}; name a file of an "
            f"architecture and quantisation that it reads, such as llama with Q4_1 or Q8_0"
        ) from error


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{text[:300]}…" if len(text) > 300 else text
