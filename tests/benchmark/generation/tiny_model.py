"""A tiny random language model with random adapters, made by transformers and PEFT themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

RANK = 8
VOCABULARY = 120
SPECIAL = ["<pad>", "<s>", "</s>", "<u>", "<a>", "<unk>"]


@dataclass(frozen=True)
class TinyModel:
    """A random checkpoint with PEFT adapters made by PEFT itself."""

    folder: Path
    adapters: tuple[Path, ...]
    prompts: tuple[tuple[int, ...], ...]


def save_random_model(folder: Path, *, seed: int, width: int = 64, heads: int = 2) -> Path:
    words = SPECIAL + [f"w{index}" for index in range(VOCABULARY - len(SPECIAL))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=width,
                intermediate_size=160,
                num_hidden_layers=2,
                num_attention_heads=heads,
                num_key_value_heads=heads,
                max_position_embeddings=64,
                tie_word_embeddings=True,
                initializer_range=0.3,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
            )
        )
    model.save_pretrained(folder)
    return folder


def save_random_adapter(
    folder: Path,
    base: Path,
    *,
    seed: int,
    spread: float,
    rank: int = RANK,
    alpha: float = 16,
    targets: str | list[str] = "all-linear",
) -> Path:
    """Save an adapter on the linear layers ``targets`` whose B factors have standard deviation ``spread``."""
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets))
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=spread) if spread else torch.nn.init.zeros_(parameter)
    wrapped.save_pretrained(folder)
    return folder


def peft_logprobs(base: Path, adapter: Path | None, sequences: list[tuple[int, ...]]) -> list[list[float]]:
    """The reference: PEFT's own forward pass, one sequence at a time."""
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    rows = []
    with torch.inference_mode():
        for sequence in sequences:
            ids = torch.tensor([sequence])
            logprobs = model(ids).logits[0, :-1].log_softmax(-1)
            rows.append(logprobs.gather(-1, ids[0, 1:, None]).flatten().tolist())
    return rows


def peft_answers(
    base: Path, adapter: Path | None, prompts: list[tuple[int, ...]], new_tokens: int
) -> list[tuple[int, ...]]:
    """The reference: greedy answers of PEFT's own model, one prompt at a time and without a cache."""
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    answers = []
    with torch.inference_mode():
        for prompt in prompts:
            ids = list(prompt)
            while len(ids) < len(prompt) + new_tokens:
                token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
                if token == model.config.eos_token_id:
                    break
                ids.append(token)
            answers.append(tuple(ids[len(prompt) :]))
    return answers


def changed_copy(
    adapter: Path,
    folder: Path,
    *,
    rename: tuple[str, str] = ("", ""),
    factor: float = 1.0,
    alpha: float | None = None,
    without: str = "",
) -> Path:
    """Save a copy of ``adapter`` whose tensors are renamed or scaled, with another alpha, or without a module."""
    folder.mkdir(parents=True)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["lora_alpha"] = config["lora_alpha"] if alpha is None else alpha
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {
            name.replace(*rename) if rename[0] else name: (tensor * factor).contiguous()
            for name, tensor in tensors.items()
            if not without or f".{without}." not in name
        },
        folder / "adapter_model.safetensors",
    )
    return folder
