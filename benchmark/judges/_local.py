"""The default model of judges that are prompts for any instruction-tuned model."""

from tasks.model_source import ModelShape, ModelSource

LOCAL_MODEL = ModelSource(
    repository="meta-llama/Llama-3.1-8B-Instruct",
    revision="0e9e39f249a16976918f6564b8830bc894c89659",
    shape=ModelShape(layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, vocabulary=128256),
    gated=True,
    licence="Llama 3.1 Community License",
)
"""The local model that JudgeZoo chooses."""
