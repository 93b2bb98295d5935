"""Search of the attack and parameters under which one defense is least safe, on development seeds."""
