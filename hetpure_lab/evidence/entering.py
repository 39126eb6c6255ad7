"""Records of other machines or of a stopped process: verified, then entered into the manifest.

    hetpure manifest                           # every file that is not as entered; then exit code 1
    hetpure manifest --enter                   # verify new records, and enter them
    hetpure manifest --enter --replace FILE    # a file that was changed on purpose

A file whose entered lines were changed, cut or removed is only entered with ``--replace``, which
the history of the manifest then shows.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

from hetpure_lab.common.paths import RESULTS
from hetpure_lab.evidence import certify, manifest, records, rescore, verify
from hetpure_lab.evidence.manifest import Difference


def verified(path: Path, n: int, folder: str | None = None) -> list[str]:
    """What is wrong with a file: of an experiment in full, with `n` of its images scored again; of
    others, lines that are no records.
    """
    found = list(records.lines(path.read_bytes()))
    if any("certificate" in line.record.get("config", {}) for line in found if line.record):
        return [*certify.faults(path), *(certify.counted_again(path, n, folder) if n else ())]
    if not any("attack" in line.record.get("config", {}) for line in found if line.record):
        return [f"line {line.number}: {line.wrong}" for line in found if line.wrong]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the verdict names the lines
        verdict, _ = verify.file(
            path, verify.images_of(path, folder), rescore.sample(path, n) if n else ()
        )
    return list(map(str, verdict.faults))


def enter(
    results: Path,
    different: Sequence[Difference],
    replace: bool = False,
    n: int = 1,
    folder: str | None = None,
) -> list[str]:
    """Enter the files that are `different`, unless something is wrong with one: returns what was
    refused, and why.
    """
    refused, good = [], {}
    for difference in different:
        path = results / difference.file
        if difference.changed and not replace:
            refused.append(f"{difference}; --replace enters it as it is now")
        elif not path.exists():
            good[difference.file] = None
        elif faults := verified(path, n, folder):
            refused.append("\n  ".join([f"{difference.file}: not entered", *faults]))
        else:
            good[difference.file] = path.read_bytes()
    manifest.enter(results, good)
    return refused


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="hetpure manifest", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("files", nargs="*", type=Path, help="files of records (default: all)")
    parser.add_argument("--enter", action="store_true", help="verify what is new, and enter it")
    parser.add_argument("--replace", action="store_true", help="also what was changed or removed")
    parser.add_argument(
        "--n-images",
        type=int,
        default=1,
        help="images of each file to score again before it is entered",
    )
    parser.add_argument("--data", help="folder of the data set (default: the usual search)")
    args = parser.parse_args(argv)
    if args.replace and not args.enter:
        raise ValueError("--replace says how to enter: give --enter as well")
    different = manifest.differences(RESULTS, args.files)
    left = (
        enter(RESULTS, different, args.replace, args.n_images, args.data)
        if args.enter
        else list(map(str, different))
    )
    print("\n".join(left) or f"{len(manifest.read(RESULTS))} files are as entered")
    return 1 if left else 0
