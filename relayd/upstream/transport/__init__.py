"""Transfers and connections; the only package that uses libcurl."""
