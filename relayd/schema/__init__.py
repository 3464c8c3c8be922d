"""Dataclasses to and from YAML nodes: types, units, secrets, and every fault at once with its position."""

from relayd.schema.types import Duration, Secret, Size, section, setting

__all__ = ["Duration", "Secret", "Size", "section", "setting"]
