"""``python -m hetpure_lab``: the command `hetpure`."""

import sys

from hetpure_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
