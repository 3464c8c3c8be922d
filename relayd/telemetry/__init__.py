"""What relayd tells its operator: metrics, access records, the journal."""
