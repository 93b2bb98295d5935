"""Ranking: the choice of cells, gates, standings, and the board that holds them."""
