"""Downloads that continue where they stopped, and that are kept only when they are whole."""

from __future__ import annotations

import hashlib
import io
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from hetpure_lab.common.progress import bar as progress_bar

BLOCK = 1 << 20


class DownloadError(ValueError):
    """A file that could not be fetched, or is not the promised one."""


def download(
    url: str,
    path: Path,
    size: int = 0,
    progress: bool = True,
    check: Callable[[Path], object] = lambda path: None,
) -> None:
    """`url` into `path`. An interrupted transfer is continued if the server still has the same
    file, else begun again.

    The file is put in its place once it is whole and `check` has read it without complaint.
    Raises `DownloadError` for a web page, a length, a range or an encoding that was not asked for,
    and for content that `check` refuses by a `ValueError`; nothing is kept then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.tag")
    have = part.stat().st_size if part.exists() and tag.exists() else 0
    headers = {"Accept-Encoding": "identity"} | (
        {"Range": f"bytes={have}-", "If-Range": tag.read_text()} if have else {}
    )
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=60
        ) as answer:
            _as_asked(answer, url, path, have)
            have = have if answer.status == 206 else 0
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length else 0
            if size and total not in (0, size):
                raise DownloadError(
                    f"{url} offers {total} bytes, but the published file has {size}"
                )
            if same := answer.headers.get("ETag") or answer.headers.get("Last-Modified"):
                tag.write_text(same)
            _receive(answer, part, have, total, path.name, progress)
    except urllib.error.HTTPError as error:
        # "range not satisfiable": the part is whole already, or was never of this file
        if error.code != 416 or not have:
            raise DownloadError(f"{url} could not be downloaded: {error}") from error
        if error.headers.get("Content-Range") != f"bytes */{have}" or size not in (0, have):
            part.unlink()
            return download(url, path, size, progress, check)
        total = have
    except (OSError, HTTPException) as error:
        have = part.stat().st_size if part.exists() else 0
        raise DownloadError(
            f"{url}: interrupted after {have} bytes ({error!r}); the same command continues"
        ) from error
    got, whole = part.stat().st_size, size or total
    if got < whole:
        raise DownloadError(
            f"{url}: interrupted after {got} of {whole} bytes; the same command continues"
        )
    if got > whole > 0:
        part.unlink()
        raise DownloadError(f"{url} sent {got} bytes instead of {whole}; they were not kept")
    _keep(part, tag, path, url, check)


def _as_asked(answer: HTTPResponse, url: str, path: Path, have: int) -> None:
    """Raise `DownloadError` unless the reply is the file itself, from the byte that was asked
    for.
    """
    if answer.headers.get_content_type() == "text/html":
        raise DownloadError(
            f"{url} answered with a web page instead of a file; fetch it in a browser and save it"
            f" as {path}"
        )
    if (encoding := answer.headers.get("Content-Encoding", "identity")) != "identity":
        raise DownloadError(
            f"{url} answered with a file encoded as {encoding}, which was not asked for; nothing"
            " was kept"
        )
    if answer.status == 206 and not answer.headers.get("Content-Range", "").startswith(
        f"bytes {have}-"
    ):
        given = answer.headers.get("Content-Range", "no range")
        raise DownloadError(
            f"{url} answered with {given} instead of the bytes from {have} on; nothing was added"
        )


def _keep(part: Path, tag: Path, path: Path, url: str, check: Callable[[Path], object]) -> None:
    """The whole file into its place, if `check` accepts it."""
    try:
        with part.open("rb") as file:
            beginning = file.read(512).lstrip().lower()
        if beginning.startswith((b"<!doctype html", b"<html")):
            raise DownloadError("it is a web page")
        check(part)
    except ValueError as error:
        part.unlink()
        tag.unlink(missing_ok=True)
        says = str(error).replace(str(part), path.name)
        raise DownloadError(
            f"{url} sent something else than {path.name}: {says}; it was not kept"
        ) from error
    part.replace(path)
    tag.unlink(missing_ok=True)


def _receive(
    answer: io.BufferedIOBase, part: Path, have: int, total: int, label: str, progress: bool
) -> None:
    bar = progress_bar(total, label, not progress, initial=have, unit="B", unit_scale=True)
    with bar, part.open("ab" if have else "wb") as file:
        while block := answer.read(BLOCK):
            file.write(block)
            bar.update(len(block))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
