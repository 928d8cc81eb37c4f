"""The command mptpn, see mptpn.command_line."""

import os
import sys

from mptpn import faults
from mptpn.command_line.console import complain, open_closed
from mptpn.command_line.parser import parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 1 after a sentence on what is wrong."""
    open_closed()
    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except BrokenPipeError:  # nobody reads what is printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        complain(options, faults.sentence(error), faults.trace(error))
        return 1
    except KeyboardInterrupt:
        again = "" if options.command == "noise" else "; give the same command again and it goes on"
        print(f"\nmptpn {options.command}: stopped{again}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
