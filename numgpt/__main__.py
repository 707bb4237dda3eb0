"""The command line as a program: `python -m numgpt`, and the script `numgpt`."""

import os
import sys


def main() -> int:
    """Run the command line and return its exit code. Ctrl-C gives 130 and no traceback, during the imports too."""
    try:
        import signal

        interrupt = signal.getsignal(signal.SIGINT)
        if interrupt is signal.default_int_handler:  # or else Ctrl-C is ignored, as behind `nohup` or `&`
            # Not by an exception: some of what is imported swallows it, or makes an ImportError of it.
            signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        from numgpt import cli

        signal.signal(signal.SIGINT, interrupt)
        return cli.main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
