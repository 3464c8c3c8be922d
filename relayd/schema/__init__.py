"""Conversion between YAML nodes and dataclasses: types, units, secrets, and all faults with their positions."""

from relayd.schema.types import Duration, Money, Secret, Size, section, setting

__all__ = ["Duration", "Money", "Secret", "Size", "section", "setting"]
