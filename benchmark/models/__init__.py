"""Language models: checkpoints, chat formats, LoRA adapters, sampling and the output head."""
