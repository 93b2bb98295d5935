"""Citation: of scores, of methods' papers, and of the tables that papers print."""
