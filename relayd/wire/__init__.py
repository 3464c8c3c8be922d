"""Bytes in, values out: HTTP/1.1 heads, chunked bodies, forwarding fields, server-sent events; no I/O."""
