"""`python -m jaxsens` is the command `jaxsens`."""

import sys

from jaxsens.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
