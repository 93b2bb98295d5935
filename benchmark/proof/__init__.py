"""The proof that everything works on real text: a small model made from scratch, a small federation, no hub."""
