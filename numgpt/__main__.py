"""The command line as a program: `python -m numgpt`, and the script `numgpt`."""

import sys


def main() -> int:
    """Run the command line and return its exit code. Ctrl-C gives 130 and no traceback, during the imports too."""
    try:
        from numgpt.cli import main as cli

        return cli.main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
