"""The book's launch buttons lead to notebooks without MyST, where release and Binder put them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest
from conftest import ROOT

ADDRESS = "OWNER/REPO"
BUTTONS = f"""
<div class="dropdown dropdown-launch-buttons">
<a href="https://mybinder.org/v2/gh/{ADDRESS}/main?urlpath=lab/tree/chapters/05_cifar10.ipynb"></a>
<a href="https://colab.research.google.com/github/{ADDRESS}/blob/main/chapters/05_cifar10.ipynb"></a>
</div><p><a href="https://github.com/{ADDRESS}/blob/main/chapters/05_cifar10.ipynb"></a></p>
"""


@pytest.fixture
def links(monkeypatch) -> list[str]:
    """Where a chapter's buttons and another link lead in the finished page."""
    pytest.importorskip("sphinxcontrib.bibtex", reason="the book's extra is not installed")
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    from bs4 import BeautifulSoup
    from hetpure_book import launch_plain

    page = BeautifulSoup(BUTTONS, "html.parser")
    launch_plain(page)
    return [link["href"] for link in page.find_all("a")]


def test_buttons_lead_to_plain_notebooks_and_other_links_stay(links):
    binder, colab, source = links
    (folder,) = re.findall(r"report\.plain (\S+)", (ROOT / "postBuild").read_text())
    (branch,) = re.findall(r"refs/heads/(\w+)", (ROOT / ".ci" / "notebooks").read_text())
    assert binder.endswith(f"?urlpath=lab/tree/{folder}/05_cifar10.ipynb")
    assert colab.endswith(f"/github/{ADDRESS}/blob/{branch}/05_cifar10.ipynb")
    assert source.endswith("/blob/main/chapters/05_cifar10.ipynb")
    assert all(os.access(ROOT / name, os.X_OK) for name in ("postBuild", ".ci/notebooks"))


def test_the_script_makes_a_branch_of_a_folder_and_of_nothing_else(tmp_path):
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(tmp_path / "a")]
    (tmp_path / "a" / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "notebooks", tmp_path / "a" / ".ci")
    (tmp_path / "a" / "made").mkdir()
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "there"], check=True)
    for words in (["init", "-q"], ["add", ".ci"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    subprocess.run([*git, "remote", "add", "origin", tmp_path / "there"], check=True)
    for name in ("old.ipynb", "new.ipynb"):
        (tmp_path / "a" / "made" / "old.ipynb").unlink(missing_ok=True)
        (tmp_path / "a" / "made" / name).write_text("{}")
        done = subprocess.run(
            [tmp_path / "a" / ".ci" / "notebooks", "made", "v1"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    words = ["git", "--git-dir", str(tmp_path / "there")]
    listed, commits = (
        subprocess.run([*words, *more, "notebooks"], capture_output=True, text=True).stdout
        for more in (["ls-tree", "--name-only"], ["rev-list"])
    )
    assert listed == "new.ipynb\n" and len(commits.splitlines()) == 1
