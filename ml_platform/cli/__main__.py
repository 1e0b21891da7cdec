"""Runs the command line as `python -m ml_platform.cli`."""

from ml_platform.cli import main

if __name__ == "__main__":
    main()
