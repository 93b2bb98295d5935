"""Hand-made checkpoints for the tests of judges: byte-level, so that prompts read back, and saying what they are told.

The next token depends on the last one alone: embeddings are unit vectors, the only layer adds nothing, and the output
head holds the table. A chain of distinct characters is therefore an answer that the test knows, from a model that any
engine loads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmark.generation.base import Answer, Engine, Request, TokenScore

HEAD = 32
"""Width of an attention head, the least that vLLM's CPU build computes."""
END = "</s>"
TURNS = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<reply>{% endif %}"
)
"""A chat template whose turns are easily read back."""


def save_tokenizer(folder: Path, *, words: Sequence[str] = (), template: str | None = TURNS) -> PreTrainedTokenizerFast:
    """Save and return a tokenizer of single bytes and the given whole words."""
    specials = ["<pad>", "<s>", END, "<unk>"]
    tokens = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token=END, unk_token="<unk>"
    )
    fast.add_tokens(list(words))
    fast.chat_template = template
    fast.save_pretrained(folder)
    return fast


def save_model(
    folder: Path,
    after: Mapping[str, Mapping[str, float]],
    *,
    words: Sequence[str] = (),
    template: str | None = TURNS,
    max_length: int = 8192,
) -> Path:
    """Save a checkpoint that says, after a token, each other token with the given logit (others with 0).

    Args:
        folder: Where to.
        after: Token → next token → logit. A token is a character, a word of ``words`` or :data:`END`.
        words: Tokens of several characters.
        template: Chat template.
        max_length: Tokens that the model reads.
    """
    tokenizer = save_tokenizer(folder, words=words, template=template)
    size = -(-len(tokenizer) // HEAD) * HEAD
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=HEAD,
        num_hidden_layers=1,
        num_attention_heads=size // HEAD,
        max_position_embeddings=max_length,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.zero_()
        for token, following in after.items():
            for said, logit in following.items():
                # The normalised embedding has length sqrt(size).
                model.lm_head.weight[token_id(tokenizer, said), token_id(tokenizer, token)] = logit / size**0.5
    model.save_pretrained(folder)
    return folder


def chain(*said: str) -> dict[str, dict[str, float]]:
    """Return the table of a model that says these tokens one after the other, the first being the prompt's last."""
    return {token: {following: 50.0} for token, following in zip(said, (*said[1:], END), strict=True)}


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    ids: list[int] = tokenizer.encode(token, add_special_tokens=False)
    assert len(ids) == 1, f"{token!r} is not one token"
    return ids[0]


class ScriptedEngine(Engine):
    """Answers what ``say`` returns for a prompt's text, and keeps what it was asked."""

    name = "scripted 1.0"

    def __init__(self, folder: Path, say: Callable[[str], str]) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._say = say
        self.requests: list[Request] = []
        self.prompts: list[str] = []
        self.closed = False

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        prompts = [str(self._tokenizer.decode(list(request.prompt_ids))) for request in requests]
        self.requests += requests
        self.prompts += prompts
        return [
            Answer((5,), self._say(prompt), True, (-0.5, -0.5) if r.contrast else None)
            for prompt, r in zip(prompts, requests, strict=True)
        ]

    def scores(self, scored: Sequence[tuple[Sequence[int], Path | None]]) -> list[list[TokenScore]]:
        raise AssertionError("a judge asks for words only")

    def close(self) -> None:
        self.closed = True
