"""How an endpoint is chosen: a file per word of `balance:`; each has `Options` and one class `Balancer`."""
