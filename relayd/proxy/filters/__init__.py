"""The filters between an endpoint's bytes and the response writer, one per file; chain.py defines their order."""
