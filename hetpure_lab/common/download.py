"""Downloads that continue where they stopped, and that are kept only when they are whole."""

from __future__ import annotations

import hashlib
import io
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

BLOCK = 1 << 20


class DownloadError(ValueError):
    """A file that could not be fetched, or is not what its address promised."""


def download(url: str, path: Path, size: int = 0, progress: bool = True) -> None:
    """`url` into `path`. What an interrupted transfer left is continued if the server still has the same file, else begun again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.tag")
    have = part.stat().st_size if part.exists() and tag.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-", "If-Range": tag.read_text()} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.headers.get_content_type() == "text/html":
                raise DownloadError(f"{url} answered with a web page instead of a file; fetch it in a browser and save it as {path}")
            have = have if answer.status == 206 else 0
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length else 0
            if size and total not in (0, size):
                raise DownloadError(f"{url} offers {total} bytes, but the published file has {size}")
            if same := answer.headers.get("ETag") or answer.headers.get("Last-Modified"):
                tag.write_text(same)
            _receive(answer, part, have, total, path.name, progress)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:  # "range not satisfiable": the part is whole already, or was never of this file
            raise DownloadError(f"{url} could not be downloaded: {error}") from error
        if error.headers.get("Content-Range") != f"bytes */{have}" or size not in (0, have):
            part.unlink()
            return download(url, path, size, progress)
        total = have
    except (OSError, HTTPException) as error:
        have = part.stat().st_size if part.exists() else 0
        raise DownloadError(f"{url}: interrupted after {have} bytes ({error!r}); the same command continues") from error
    got, whole = part.stat().st_size, size or total
    if got < whole:
        raise DownloadError(f"{url}: interrupted after {got} of {whole} bytes; the same command continues")
    if got > whole > 0:
        part.unlink()
        raise DownloadError(f"{url} sent {got} bytes instead of {whole}; they were not kept")
    part.replace(path)
    tag.unlink(missing_ok=True)


def _receive(answer: io.BufferedIOBase, part: Path, have: int, total: int, label: str, progress: bool) -> None:
    bar = tqdm(total=total or None, initial=have, unit="B", unit_scale=True, desc=label, disable=not progress)
    with bar, part.open("ab" if have else "wb") as file:
        while block := answer.read(BLOCK):
            file.write(block)
            bar.update(len(block))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
