"""What stands between an endpoint's bytes and the response writer, one file per filter; the order is in chain.py."""
