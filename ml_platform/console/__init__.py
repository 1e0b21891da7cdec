"""The work behind each command of `ml-platform`: running selections, the demo, status, history and the doctor."""
