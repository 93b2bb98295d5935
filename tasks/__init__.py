"""Task worlds: instruction data, probes and the models that come with them."""
