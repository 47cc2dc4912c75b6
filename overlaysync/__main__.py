"""Run the command line with ``python -m overlaysync``."""

from overlaysync.cli.main import run

if __name__ == "__main__":
    run()
