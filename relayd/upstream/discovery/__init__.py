"""How the addresses of an upstream become known: a module's name is the key in `discovery:`."""
