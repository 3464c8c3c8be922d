"""The checks of `relayd doctor`, and what they share."""
