"""Human names of defences, attacks and benches: "uniform noise, t = 0.2" for ``uniform:t=0.2``.

A name is made from a spec's text alone: a phrase for the slug, then a word for each setting. A slug
that has no phrase here keeps its own, so a new defence reads well without an entry. The spec itself
stays one hover, or one click, away (`markup`).
"""

from __future__ import annotations

import re
from html import escape
from itertools import groupby

from hetpure_lab.common.specs import readable

DEFENCES = {
    "none": "no defence",
    "uniform": "uniform noise",
    "hetpure": "the method",
    "equal-energy": "uniform noise of equal energy",
    "image-gradient": "the method, mask from image edges",
    "sde": "DiffPure, reverse SDE",
    "ode": "DiffPure, probability flow",
    "gradual": "gradual noise (Lee & Kim)",
    "gdmp": "GDMP",
    "mimic": "MimicDiffusion",
    "contrastive": "contrastive guidance (Bai et al.)",
    "lorid": "LoRID",
    "densepure": "DensePure",
    "adp": "adaptive denoising (ADP)",
    "langevin": "Langevin walk (Hill et al.)",
    "freqpure": "FreqPure",
    "diffap": "DiffAP, random sampling",
    "ssni": "SSNI, noise by image",
    "scoreopt": "ScoreOpt",
    "pursamere": "PurSAMERE",
    "taro": "TARO, coarse to fine",
    "mani": "MANI-Pure, noise by frequency",
    "likelihood": "likelihood maximisation (RDC)",
    "at": "adversarial training",
    "me-net": "ME-Net",
    "pixeldefend": "PixelDefend",
    "atop": "AToP",
    "noise-map": "one call that knows the noise map",
    "noise-map-untold": "one call that assumes one level",
    "per-pixel": "sampler that knows the noise map",
}
MODELS = {"fast-at-linf": "fast adversarial training", "pgd-at-l2": "adversarial training for ℓ2"}
GRADIENTS = {
    "exact": "through every step",
    "surrogate": "through the released surrogate",
    "surrogate-masked": "through a surrogate with its mask",
    "mask-soft": "through a soft mask",
    "mask-straight-through": "through the mask",
}
ATTACKS = {
    "pgd": "PGD",
    "bpda": "BPDA",
    "pgd-mask": "PGD on the mask",
    "per-step": "PGD on the losses of all steps (DiffAttack)",
    "autoattack": "AutoAttack as packaged",
    "autoattack-corrected": "AutoAttack, averaged decisions",
    "square": "Square",
    "transfer": "transferred from the undefended network",
    "transfer-from": "transferred from another network",
    "growing": "PGD of growing averages",
    "low-frequency": "PGD in low frequencies",
    "spatial": "rotation and translation",
    "noise": "random noise",
}
# What a spec leaves unsaid: iterations, and gradients averaged in each. A test checks the classes.
BUDGETS = {
    "pgd": (20, 8),
    "bpda": (100, 20),
    "pgd-mask": (20, 8),
    "autoattack": (100, 20),
    "autoattack-corrected": (100, 20),
    "square": (5000, 20),
    "transfer": (50, 1),
    "transfer-from": (20, 8),
    "per-step": (20, 8),
    "growing": (10, 8),
    "low-frequency": (20, 8),
}
BENCHES = {
    "cifar10": "CIFAR-10",
    "svhn": "SVHN",
    "imagenet": "ImageNet photographs",
    "photographs": "photographs",
    "small": "small networks",
    "independent": "networks of others",
    "paper": "the paper's networks",
    "ffdnet": "FFDNet",
    "map": "denoiser told the noise map",
    "narrow": "a third of the denoiser",
    "wide": "3.6 times the denoiser",
    "addt": "denoiser trained on attacks (ADDT)",
    "at": "adversarially trained classifier",
    "classifier-only": "classifier only",
    "64": "64 pixels",
    "10": "10 classes",
}
MASKS = {
    "random": "random mask",
    "random-attended": "random mask of attention's area",
    "fixed": "one random mask for all",
    "inverted": "inverted mask",
    "top-fraction": "mask of the most attended pixels",
    "all": "strong noise everywhere",
    "none": "weak noise everywhere",
    "attention": "attention mask",
}
READINGS = {
    "paper": "the paper's reading",
    "released": "as in the released code",
    "multi-step": "repeated resampling",
}
SYMBOLS = {"tau": "τ", "t_l": "tₗ", "t_s": "tₛ", "eta": "η", "rho": "ρ", "delta": "δ", "kappa": "κ"}
COUNTED = ("steps", "votes", "loops", "restarts", "iterations", "probes")


def defence(spec: str) -> str:
    """``hetpure:tau=0.5`` as "the method, τ = 0.5"."""
    slug, settings = _parts(spec)
    title = DEFENCES.get(slug, slug)
    if slug == "at":
        model = settings.pop("model", "")
        title = MODELS.get(model, f"{title} ({model})" if model else title)
    if slug == "uniform":
        settings = {"t": settings.pop("t", "0.1")} | settings  # the level comes first
    return ", ".join([title, *(_setting(name, value) for name, value in settings.items())])


def attack(spec: str) -> str:
    """``pgd:eps=4/255`` as "PGD through every step, 20 × 8, radius 4/255".

    The two numbers are iterations, and purifications averaged in each. A radius is said where it is
    not 8/255 in the maximum norm.
    """
    slug, settings = _parts(readable(spec))
    words = [ATTACKS.get(slug, slug)]
    gradient = settings.pop("gradient", "exact" if slug == "pgd" else "")
    if gradient in GRADIENTS and slug != "pgd-mask":
        words[0] += f" {GRADIENTS[gradient]}"
    if slug == "transfer-from":
        words[0] = f"transferred from {bench(settings.pop('bench', 'cifar10-independent'))}"
        words += [f"{gradient} there"] if gradient else []
    if steer := settings.pop("steer", ""):
        words.append(f"made to {steer}")
    if slug in BUDGETS:
        counts = zip(("iterations", "eot"), BUDGETS[slug])
        words.append(" × ".join(settings.pop(name, str(usual)) for name, usual in counts))
    words += _threat(settings)
    for name in _usual(slug, settings):
        settings.pop(name)
    return ", ".join([*words, *(_attacks_setting(name, value) for name, value in settings.items())])


def bench(name: str) -> str:
    """``cifar10-small`` as "CIFAR-10, small networks"."""
    plain, *options = name.split("+")
    words = re.findall("classifier-only|[^-]+", plain)
    return ", ".join([*(BENCHES.get(word, word) for word in map(str, words)), *options])


def name(spec: str) -> str:
    """The name of a defence or of an attack, whichever the spec is."""
    return attack(spec) if spec.partition(":")[0] in ATTACKS else defence(spec)


def markup(spec: str) -> str:
    """The name as HTML that keeps the spec: as a tooltip, and for the page's script to copy."""
    said = escape(name(spec))
    return f'<abbr class="spec" title="{escape(readable(spec))}">{said}</abbr>'


# ---- parts --------------------------------------------------------------------------------------


def _parts(spec: str) -> tuple[str, dict[str, str]]:
    slug, _, rest = str(spec).partition(":")
    return slug, dict(pair.split("=", 1) for pair in rest.split(",") if "=" in pair)


def _setting(name: str, value: str) -> str:
    """One setting of a defence in words."""
    if name == "mask_kind":
        return MASKS.get(value, f"{value} mask")
    if name == "reading":
        return READINGS.get(value, value)
    if name == "sampler":
        return value.upper()
    if name == "blocks":
        return f"blocks {', '.join(str(int(block) + 1) for block in value.split('+'))}"
    if name == "fraction":
        return f"{100 * float(value):g} %"
    if name in COUNTED and value.isdigit():
        return f"{value} {name if value != '1' else name[:-1]}"
    return f"{SYMBOLS.get(name, name.replace('_', ' '))} = {_runs(value)}"


def _runs(value: str) -> str:
    """``20+20+50`` as "2×20, 50"."""
    if "+" not in value:
        return value
    runs = [(number, len(list(same))) for number, same in groupby(value.split("+"))]
    return ", ".join(f"{times}×{number}" if times > 1 else number for number, times in runs)


def _threat(settings: dict[str, str]) -> list[str]:
    """Norm and radius, taken out of the settings; nothing for the usual ones."""
    norm, eps = settings.pop("norm", "Linf"), settings.pop("eps", "")
    if norm == "Linf":
        return [f"radius {eps}"] if eps not in ("", "8/255") else []
    said = [f"{re.sub('^L', 'ℓ', norm)} radius {eps or '8/255'}"]
    if settings.get("step") and eps and "/" not in eps and _is(settings["step"], float(eps) / 10):
        settings.pop("step")  # a tenth of the radius is the usual step
    return said


def _is(text: str, value: float) -> bool:
    return abs(float(text) - value) < 1e-9


def _usual(slug: str, settings: dict[str, str]) -> list[str]:
    """The settings that say nothing new: one check where there is no noise, AutoAttack's budget."""
    usual = {"accept": "16"} if slug == "autoattack-corrected" else {"confirm": "1"}
    return [name for name, value in usual.items() if settings.get(name) == value]


def _attacks_setting(name: str, value: str) -> str:
    """One setting of an attack in words."""
    if name == "frozen":
        known = value.replace("+", " and ")
        return "noise known" if value == "all" else f"{known} noise known"
    if name == "search":
        return {"gradient": "by gradient", "random": "the worst of random ones"}.get(value, value)
    if name == "random_start":
        return "random start"
    if name == "keep":
        return f"{value} iterate"
    if name == "loss":
        return f"{value} loss"
    if name == "confirm":
        return "no early stop" if value == "0" else f"confirmed {value} times"
    if name == "confirm_every":
        return f"checked every {value}"
    if name == "accept":
        return f"decided by {value}"
    return _setting(name, value)
