"""The plan: a configuration compiled for the data path."""
