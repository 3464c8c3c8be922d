"""The path of a request, one phase or object per file."""
