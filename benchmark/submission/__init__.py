"""From an idea to a verified row: scaffold, check, bundle, verify."""
