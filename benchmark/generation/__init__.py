"""Generation engines: vLLM, and transformers where vLLM has no build."""
