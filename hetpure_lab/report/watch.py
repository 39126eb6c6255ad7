"""Write down every file that this process opens from now on, into the file named by HETPURE_WATCH:
for `chapters`, in its kernels.
"""

from __future__ import annotations

import os
import sys


def begin(log: str) -> None:
    """Append the name of every file that is opened, once, to `log`."""
    seen, target = set(), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hook(event: str, args: tuple) -> None:
        if event == "open" and isinstance(args[0], str) and args[0] not in seen:
            seen.add(args[0])
            os.write(target, f"{args[0]}\n".encode())

    sys.addaudithook(hook)


if log := os.environ.get("HETPURE_WATCH"):
    begin(log)
