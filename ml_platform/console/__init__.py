"""What stands behind the command line: running selections, planning what is stale, the demo, the status."""
