"""Local training of clients' adapters and the federated round loop."""
