"""The sections of relayd.yaml, one file each, and the loader."""
