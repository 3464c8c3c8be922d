"""Balancers: one module per kind of `balance:`, with `Options` and one class `Balancer`."""
