"""What a version is known by, from ``pyproject.toml`` alone: how to cite it, its notes, its files.

python -m hetpure_lab.report.release                 # write citations and install cells
python -m hetpure_lab.report.release --tag v0.1.0    # check the tag, collect out/release
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from hetpure_lab.common.paths import ROOT

OUT = ROOT / "out"
BIBTEX = """\
@software{{hetpure,
  author  = {{{{{author}}}}},
  title   = {{{{HetPure}}: an executable reproduction of
             heterogeneous diffusion-based adversarial purification}},
  version = {{{version}}},
  url     = {{{repository}}},
}}
"""


class ReleaseError(ValueError):
    """A tag, a changelog or a build that does not fit the version."""


def project() -> dict:
    """The table ``project`` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def published() -> str:
    """Where the repository publishes its pages, with a slash at the end."""
    owner, name = project()["urls"]["Repository"].rstrip("/").split("/")[-2:]
    return f"https://{owner}.github.io/{name}/"


def citation(text: str, about: dict) -> str:
    """CITATION.cff with the version and the address of pyproject.toml."""
    text = re.sub(r"(?m)^version: .*$", f"version: {about['version']}", text)
    address = f'repository-code: "{about["urls"]["Repository"]}"'
    return re.sub(r"(?m)^repository-code: .*$", address, text)


def bibtex(about: dict) -> str:
    """An entry for this version."""
    author, repository = about["authors"][0]["name"], about["urls"]["Repository"]
    return BIBTEX.format(author=author, version=about["version"], repository=repository)


def archive(about: dict) -> str:
    """The address of this version's sources and records, which install cells fetch."""
    repository = about["urls"]["Repository"].rstrip("/")
    return f"{repository}/archive/refs/tags/v{about['version']}.zip"


def install(notebook: str, about: dict) -> str:
    """The text of a notebook whose install cell fetches this version."""
    return re.sub(r"https://[^\s\"\\]+/archive/refs/tags/[^\s\"\\]+", archive(about), notebook)


def notebooks() -> list[Path]:
    """All that have an install cell."""
    return [*sorted(ROOT.glob("chapters/*.ipynb")), *sorted(ROOT.glob("templates/*.ipynb"))]


def write() -> list[Path]:
    """Bring CITATION.cff, the BibTeX entry and install cells up to date; what was written."""
    about, cff, bib = project(), ROOT / "CITATION.cff", ROOT / "book" / "hetpure.bib"
    cff.write_text(citation(cff.read_text(), about))
    bib.write_text(bibtex(about))
    for path in notebooks():
        path.write_text(install(path.read_text("utf-8"), about), "utf-8")
    return [cff, bib, *notebooks()]


def notes(changelog: str, version: str) -> str:
    """The section of a version. Raises `ReleaseError` if it has none, or is marked unreleased."""
    found = re.search(
        rf"(?ms)^## {re.escape(version)}(?P<mark>[^\n]*)\n(?P<text>.*?)(?=^## |\Z)", changelog
    )
    if not found or not found["text"].strip():
        raise ReleaseError(f"CHANGELOG.md has no section '## {version}': write what changed")
    if "unreleased" in found["mark"]:
        raise ReleaseError(
            f"CHANGELOG.md still says that {version} is unreleased: put its date there"
        )
    return found["text"].strip() + "\n"


def collect(tag: str, out: Path = OUT) -> Path:
    """Check that `tag` is this version, and collect book, PDF, EPUB, wheel and archive with
    their checksums.
    """
    version = project()["version"]
    if tag != f"v{version}":
        raise ReleaseError(f"the tag {tag!r} is not v{version}, the version of pyproject.toml")
    said = notes((ROOT / "CHANGELOG.md").read_text(), version)
    folder, html = out / "release", ROOT / "book" / "_build" / "html"
    books = [out / "book.pdf", out / "book.epub"]
    files = [*books, *sorted((out / "dist").glob(f"hetpure-{version}*"))]
    if missing := [str(p) for p in (html, *books) if not p.exists()]:
        raise ReleaseError(f"not built: {', '.join(missing)}; run: make book pdf epub")
    if len(files) < 4:
        raise ReleaseError(
            f"no wheel and archive of {version} in {out / 'dist'}; run: python -m build -o out/dist"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in files:
        shutil.copy(path, folder / re.sub(r"^book\b", f"hetpure-{version}", path.name))
    shutil.make_archive(str(folder / f"hetpure-{version}-book"), "zip", html)
    (folder / "hetpure.bib").write_text(bibtex(project()))
    sums = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}" for p in sorted(folder.iterdir())
    ]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    (folder / "NOTES.md").write_text(said)
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m hetpure_lab.report.release", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--tag", help="collect the files of this release into out/release")
    tag = parser.parse_args(argv).tag
    try:
        print(collect(tag) if tag else "\n".join(map(str, write())))
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
