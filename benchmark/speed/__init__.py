"""Speed of training large models on this machine's GPU."""
