"""`ml-platform doctor`: checks of the machine, the installation and the home, each with the fix."""
