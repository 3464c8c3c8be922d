"""Admission control: concurrency limits, fair waiting queues, overload protection and the bound on request bodies."""
