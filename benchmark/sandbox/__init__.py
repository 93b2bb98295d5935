"""Foreign code in separate processes that see only the inputs of their hooks."""
