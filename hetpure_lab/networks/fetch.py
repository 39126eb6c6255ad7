"""Published networks onto this machine: ``hetpure fetch NAME ...``.

Without a name it lists all of them with their licences. Nothing is downloaded unless named. An
interrupted transfer continues. Licence and origin are printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hetpure_lab.common.download import sha256
from hetpure_lab.networks import checkpoints, robustbench


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hetpure fetch", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("names", nargs="*", help="checkpoints, or robustbench/cifar10/Linf/NAME")
    parser.add_argument(
        "--again",
        action="store_true",
        help="forget what was trusted under these names, fetch and trust anew",
    )
    args = parser.parse_args(argv)
    if args.again and not args.names:
        raise ValueError("--again needs the name of a checkpoint")
    for name, about in checkpoints.CATALOGUE.items() if not args.names else ():
        here = "here" if checkpoints.path_of(name).exists() else "-"
        print(f"{name:27} {here:5} {about.network:17} {about.licence}\n{'':33} {about.origin}")
        if trust := checkpoints.trust(name):
            print(f"{'':33} trusted: {trust}")
    for name in args.names:
        if name.startswith(robustbench.PREFIX):
            if args.again:
                checkpoints.forget(name)
            path = robustbench.fetch(name)
        else:
            path = checkpoints.fetch(name, again=args.again)
        print(f"{path}: {sha256(path)}; trusted: {checkpoints.trust(name)}")
