"""One check per module; see relayd/cli/doctor/examination.py."""
