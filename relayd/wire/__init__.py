"""Parsers and serialisers without I/O: HTTP/1.1 heads, chunked bodies, forwarding fields, server-sent events."""
