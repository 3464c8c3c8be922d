"""Measurements of the running daemon beside its peers; `make bench`."""
