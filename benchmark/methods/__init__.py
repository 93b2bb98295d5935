"""Methods as the engine uses them: compositions of defenses, and the files of their code."""
