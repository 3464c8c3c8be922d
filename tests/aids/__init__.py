"""Checkers that several kinds of tests share."""
