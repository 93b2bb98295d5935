"""lm-evaluation-harness over our generation engine: any of its tasks scores any adapter of a plan."""
