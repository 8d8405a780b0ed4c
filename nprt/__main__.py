"""`python -m nprt` is the command `nprt`."""

import sys

from nprt.cli import main

if __name__ == "__main__":
    sys.exit(main())
