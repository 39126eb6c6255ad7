r"""Formulas of docstrings as one writes them on a line, where code is shown and nothing sets TeX:
``:math:`\hat x_0 / \sqrt{r}``` is x̂_0 / √r.
"""

from __future__ import annotations

import re
import unicodedata
from functools import partial

LETTERS = (
    "alpha beta gamma delta epsilon eta theta kappa lambda mu nu rho sigma tau phi omega"
    " Gamma Delta Sigma Phi Omega ell",
    "αβγδεηθκλμνρστφωΓΔΣΦΩℓ",
)
OPERATORS = (
    "sum prod bigcup nabla odot cdot le ge ne sim propto mid pm leftarrow infty angle langle rangle"
    " lVert rVert",
    "∑∏⋃∇⊙·≤≥≠∼∝|±←∞∠⟨⟩‖‖",
)
SIGNS = {
    name: sign for names, signs in (LETTERS, OPERATORS) for name, sign in zip(names.split(), signs)
}
SIGNS |= {"top": "T"} | {name: name for name in ("max", "min", "arg", "ln")}
ACCENTS = {"bar": "MACRON", "hat": "CIRCUMFLEX ACCENT", "tilde": "TILDE"}
FONTS = r"\\(?:mathrm|mathcal|mathbb|operatorname|text)\s*(?:\{([^{}]*)\}|(\w))"
# each a command and its arguments, without braces inside: the innermost goes first
GROUPS = {
    r"\\t?frac(?:\{([^{}]*)\}|(\w))(?:\{([^{}]*)\}|(\w))": "{}/{}",
    r"\\sqrt(?:\{([^{}]*)\}|\s*(\w))": "√{}",
    r"\^\{([^{}]*)\}": "^{}",
    r"_\{([^{}]*)\}": "_{}",
}


def on_a_line(source: str) -> str:
    """Source code with every ``:math:`...``` as text."""
    return re.sub(r":math:`([^`]*)`", lambda role: written(role[1]), source)


def written(tex: str) -> str:
    """TeX as text. A command that is not known stays."""
    tex = re.sub(FONTS, r"\1\2", tex).replace(r"\|", "‖")
    tex = re.sub(r" *\\[,;!] *", " ", tex)
    tex = re.sub(r"\\(bar|hat|tilde)\s*(\\[A-Za-z]+|\w)", r"\2\\\1", tex)
    tex = re.sub(r"\\([A-Za-z]+)", _sign, tex)
    before = ""
    while tex != before:
        before = tex
        for pattern, form in GROUPS.items():
            tex = re.sub(pattern, partial(_filled, form), tex)
    return unicodedata.normalize("NFC", tex)


def _sign(command: re.Match) -> str:
    if accent := ACCENTS.get(command[1]):
        return unicodedata.lookup(f"COMBINING {accent}")
    return SIGNS.get(str(command[1]), str(command[0]))


def _filled(form: str, found: re.Match) -> str:
    return form.format(*(_whole(part) for part in found.groups() if part is not None))


def _whole(part: str) -> str:
    """A part of a formula in brackets, if it would fall apart without."""
    return part if re.fullmatch(r"\S\u0304?(_\w+)?|\w+|\([^()]*\)", part) else f"({part})"
