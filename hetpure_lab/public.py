"""The lab in ten names: load a bench and images, defend, attack, evaluate, compare, audit.

What ``import hetpure_lab as hp`` offers. Three lines put a purifier of your own beside the method,
on the same images, with a paired test:

    bench, images = hp.load_bench("cifar10-small"), hp.load_images("cifar10", n=16)
    mine, method = (hp.evaluate(hp.defend(bench, p), "pgd", images) for p in (denoise, "hetpure"))
    hp.compare(mine, method)

where ``denoise`` is any function from images in [0, 1] to images in [0, 1].
"""

# pandas ships no types: of frames pyright knows nothing, and is not asked.
# pyright: strict, reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor, nn

from hetpure_core import Purified
from hetpure_lab import attacks as lab_attacks
from hetpure_lab import data as lab_data
from hetpure_lab import defences as lab_defences
from hetpure_lab.attacks import ATTACKS, PRESETS, Attack
from hetpure_lab.audit.own import Called, OneCall
from hetpure_lab.common import names, specs, stats
from hetpure_lab.common.progress import bar as progress_bar
from hetpure_lab.data import Images
from hetpure_lab.defences import DEFENCES, Defended
from hetpure_lab.evidence import engine
from hetpure_lab.evidence.compare import Judged, Pair, judge, rates
from hetpure_lab.evidence.experiment import Experiment
from hetpure_lab.evidence.outcomes import COLUMNS, RULES, Outcomes
from hetpure_lab.evidence.records import append, read
from hetpure_lab.networks import benches as lab_benches
from hetpure_lab.networks.benches import Bench
from hetpure_lab.report import card as lab_card
from hetpure_lab.report import listing
from hetpure_lab.report.card import Card

Purify = Callable[[Tensor], Tensor]


# ---- what there is -------------------------------------------------------------------------------


def defences() -> pd.DataFrame:
    """Every defence by name: what people call it, its family, and its settings with their
    defaults. No error, plug-ins apart.

    >>> hp.defences().loc["hetpure", "family"]
    'method'
    """
    return pd.DataFrame(listing.defences()).set_index("name")


def attacks() -> pd.DataFrame:
    """Every attack and preset by name, with settings and defaults. No error, plug-ins apart.

    >>> "pgd" in hp.attacks().index
    True
    """
    return pd.DataFrame(listing.attacks()).set_index("name")


def benches() -> pd.DataFrame:
    """Every bench by name: scale, data set, and the method's settings there. No error, plug-ins
    apart.

    >>> hp.benches().loc["cifar10-small", "scale"]
    'small'
    """
    return pd.DataFrame(listing.benches()).set_index("name")


def load_bench(name: str = "cifar10-small", device: str = "cpu") -> Bench:
    """The networks of a bench: classifier, denoiser, schedule, default method.

    Raises `ValueError` for an unknown name or device, or weights that are missing or damaged.

    >>> hp.load_bench("cifar10-small").classes[:2]
    ('airplane', 'automobile')
    """
    return lab_benches.load(name, device)


def load_images(
    name: str, n: int | None = None, split: str = "test", data: str | Path | None = None
) -> Images:
    """`n` images of a data set (None: all), always the same ones for the same `n` and fewer.

    They are looked for in the folder `data`, in ``$HETPURE_DATA``, then in the usual places; where
    there are none, the 20 images that a package ships stand in, and `Images.source` says so.
    Raises `ValueError` for an unknown data set, or more images than there are.

    >>> hp.load_images("cifar10", n=2, split="sample").floats.shape
    torch.Size([2, 3, 32, 32])
    """
    found = lab_data.load_or_sample(name, split, data, quiet=True)
    return found if n is None else found.take(n)


# ---- a defence -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Defence:
    """A defended classifier on a bench, under a name. Images in [0, 1] to logits.

    `spec` is its name in experiments, if it has one; `settings` what makes two of them the same.
    """

    bench: Bench
    name: str
    module: Defended
    spec: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __call__(
        self, images: Tensor, ids: Sequence[Any] | None = None, copies: Sequence[int] | None = None
    ) -> Tensor:
        return self.module(images, ids, copies)

    def purify(self, images: Images | Tensor, seed: int = 0) -> Tensor:
        """Purified images in [0, 1] of images (n, c, h, w). Raises `ValueError` without a
        purifier.
        """
        x = images.floats if isinstance(images, Images) else images
        ids = images.ids if isinstance(images, Images) else range(len(x))
        module: Any = lab_attacks.reseeded(self.module, seed)
        if not hasattr(module, "purify"):
            raise ValueError(f"{self.name} has no purifier")
        with torch.no_grad():
            noise = module.noise(len(x), ids)
            return module.purify(x.to(self.bench.device), noise).clamp(0, 1)


def defend(bench: Bench, purifier: Any = "hetpure", name: str = "") -> Defence:
    """The bench's classifier behind a purifier.

    `purifier` is a spec such as ``"hetpure:tau=0.5"``, None (no defence), an object with ``mask``,
    ``plan`` and ``calls`` (`hetpure_core.Purifier`), a module ``(images, ids, copies) -> logits``
    with ``seed`` and ``classifier``, or any function from images in [0, 1] to images in [0, 1].
    Raises `ValueError` for anything else, and for bad settings.

    >>> bench = hp.load_bench("cifar10-small")
    >>> hp.defend(bench, "uniform:t=0.05,steps=1").name
    'uniform noise, t = 0.05, 1 step'
    >>> hp.defend(bench, lambda images: images, name="mine").name
    'mine'
    """
    if isinstance(purifier, str):
        spec = specs.normal(purifier, DEFENCES)
        return Defence(bench, name or names.defence(spec), lab_defences.build(spec, bench), spec)
    if purifier is None:
        return defend(bench, "none", name)
    if type(purifier) in list(DEFENCES.values()):
        return defend(bench, specs.describe(purifier, DEFENCES), name)
    if isinstance(purifier, type):
        kind = purifier.__name__
        raise ValueError(f"a purifier is an object, {kind}(...), not the class {kind}")
    called = name or getattr(purifier, "__name__", type(purifier).__name__)
    if all(hasattr(purifier, what) for what in ("mask", "plan", "calls")):
        settings = _settings(purifier)
        settings = dict(settings) | {"source": _source(type(purifier))}
        return Defence(bench, called, lab_defences.of(purifier, bench), settings=settings)
    if (
        isinstance(purifier, nn.Module)
        and hasattr(purifier, "classifier")
        and hasattr(purifier, "seed")
    ):
        own_module: Any = purifier
        return Defence(bench, called, own_module, settings={"source": lab_benches.digest(purifier)})
    if callable(purifier):
        module = Purified(
            bench.classifier,
            Called(cast(Purify, purifier)),
            OneCall(),
            schedule=bench.schedule,
            checkpointing=False,
        )
        return Defence(bench, called, module, settings={"source": _source(purifier)})
    raise ValueError(
        "a purifier is a spec, an object with mask, plan and calls, or a function of images, not"
        f" {purifier!r}"
    )


def _settings(purifier: Any) -> dict[str, Any]:
    return asdict(cast(Any, purifier)) if is_dataclass(purifier) else vars(purifier)


def _source(thing: Any) -> str:
    """A digest of what a function or class does, as far as Python tells: its source, or its
    weights.
    """
    if isinstance(thing, nn.Module):
        return lab_benches.digest(thing)[:16]
    try:
        text = inspect.getsource(thing)
    except (OSError, TypeError):
        text = repr(thing)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ---- an attack -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attacker:
    """An attack to be called on a defence and images."""

    name: str
    settings: Attack

    def __call__(
        self,
        defence: Defence,
        images: Images | Tensor,
        labels: Tensor | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> Tensor:
        """Adversarial images: real 8-bit pixels over 255 inside the ball, (n, c, h, w) in [0, 1].

        `images` are `Images`, or a tensor in [0, 1] with its `labels` (n,). Raises `ValueError`.
        """
        x, y, ids = _given(images, labels)
        device = defence.bench.device
        total = len(x) * max(1, self.settings.steps)
        with progress_bar(total, self.name, not progress) as bar:
            module = self.settings.faces(defence.module)
            found, _ = self.settings.run(
                module, x.to(device), y.to(device), ids, seed, lambda k: bar.update(k)
            )
        settings, x = self.settings, ((255 * x).round() / 255).to(device)
        pixels = (255 * x).round().to(torch.uint8)
        return settings.applied(pixels, settings.stored(found, x)).to(x) / 255


def _given(images: Images | Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, Sequence[Any]]:
    if isinstance(images, Images):
        return images.floats, images.labels, images.ids
    if labels is None:
        raise ValueError("an attack on a tensor of images needs their labels (n,)")
    labels = torch.as_tensor(labels)
    if labels.shape != (len(images),) or labels.is_floating_point():
        raise ValueError(
            f"labels are whole numbers ({len(images)},), not {tuple(labels.shape)} {labels.dtype}"
        )
    return images, labels, range(len(images))


def attack(spec: str | Attack = "pgd") -> Attacker:
    """An attack by its spec, ``"pgd:iterations=20,eot=8"``, a preset such as ``"paper"``, or an
    object.

    Raises `ValueError` for an unknown name or bad settings.

    >>> hp.attack("pgd:iterations=20,eot=8,eps=4/255").settings.iterations
    20
    """
    if isinstance(spec, str):
        settings = PRESETS.get(spec) or specs.parse(spec, ATTACKS)[1]
    else:
        settings = spec
    if not isinstance(settings, Attack):
        raise ValueError(f"an attack is a spec or an Attack, not {spec!r}")
    return Attacker(spec if isinstance(spec, str) else type(spec).__name__, settings)


# ---- records -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Records(Mapping[str, dict[str, Any]]):
    """What became of every image, by its id: a card in text, HTML, CSV and LaTeX."""

    defence: str
    attack: str
    bench: str
    found: dict[str, dict[str, Any]]

    def __getitem__(self, image: str) -> dict[str, Any]:
        return self.found[image]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    @cached_property
    def outcomes(self) -> Outcomes:
        return Outcomes.of(self.found)

    def accuracy(self, column: str = "adversarial", rule: str = "single") -> stats.Accuracy:
        """The accuracy with its 95 % interval, in [0, 1].

        `column` is ``adversarial``, ``clean`` or ``null`` (random noise of equal norm); `rule` is
        ``single`` (one purification), ``majority``, ``every``, or ``hard_S`` and ``soft_S``.
        """
        specs.check_choice("column", column, COLUMNS)
        specs.check_choice("rule", rule, RULES)
        if (found := self.outcomes.accuracy(column, rule)) is None:
            raise ValueError(f"{self.outcomes.K} purifications per image are too few for {rule}")
        return found

    def compare(self, other: Records) -> Comparison:
        """`compare` with another."""
        return compare(self, other)

    def frame(self) -> pd.DataFrame:
        """The card as a table of accuracies in percent with their intervals."""
        rows = {}
        for column in COLUMNS:
            a = self.accuracy(column)
            rows[column] = {
                "accuracy, %": 100 * a.value,
                "low": 100 * a.low,
                "high": 100 * a.high,
                "n": len(self),
            }
        return pd.DataFrame(rows).T.astype({"n": int})

    @property
    def title(self) -> str:
        return f"{self.defence} on {self.bench}, attacked by {self.attack}"

    def __str__(self) -> str:
        return f"{self.title}\n{self.frame().round(1).to_string()}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return _html(self.frame(), self.title)

    def to_csv(self) -> str:
        return self.frame().to_csv()

    def to_latex(self) -> str:
        return _latex(self.frame(), self.title)


def evaluate(
    defence: Defence,
    attack: str | Attack | Attacker = "pgd",
    images: Images | None = None,
    K: int = 20,
    seed: int = 0,
    folder: str | Path | None = None,
    batch: int = 8,
    progress: bool = True,
) -> Records:
    """Attack a defence on images and score what was found: `K` purifications each of the
    adversarial
    image, the clean one, and one with random noise of equal norm, on noise the attack never saw.

    With a `folder` the records are kept there, and an evaluation that was stopped goes on where it
    was. Raises `ValueError` for bad settings.

    >>> bench, images = hp.load_bench(), hp.load_images("cifar10", n=2, split="sample")
    >>> records = hp.evaluate(hp.defend(bench, None), "noise", images, progress=False)
    >>> len(records), records.accuracy("clean").n
    (2, 2)
    """
    attacker = attack if isinstance(attack, Attacker) else globals()["attack"](attack)
    if images is None:
        images = load_images(defence.bench.dataset)
    if K < 1 or batch < 1:
        raise ValueError(f"K and batch must be at least 1, not {K} and {batch}")
    trial = _Trial.of(defence, attacker, images, K, seed)
    path = trial.path(Path(folder)) if folder else None
    found = read(path) if path else {}
    left = [i for i, key in enumerate(images.ids) if key not in found]
    steps = max(1, attacker.settings.steps)
    with progress_bar(len(left), trial.about, not (progress and left), unit="image") as bar:

        def tick(k: int) -> None:
            bar.update(k / steps)

        for start in range(0, len(left), batch):
            rows = images[torch.tensor(left[start : start + batch])]
            records = engine.evaluate(
                cast(Any, trial),  # it has all that is asked of one
                defence.module,
                attacker.settings,
                rows,
                defence.bench.device,
                tick,
            )
            if path:
                append(path, records)
            found |= {r["image"]: r for r in records}
    kept = {key: found[key] for key in images.ids}
    shown = names.attack(trial.attack)
    return Records(defence.name, shown, names.bench(defence.bench.name), kept)


@dataclass(frozen=True)
class _Trial:
    """What `engine.evaluate` asks of an experiment, for a defence that may have no spec."""

    defence: Defence
    attack: str
    settings: Attack
    split: str
    K: int
    seed: int

    @classmethod
    def of(cls, defence: Defence, attacker: Attacker, images: Images, K: int, seed: int) -> _Trial:
        kind = type(attacker.settings)
        slug = next((s for s, k in ATTACKS.items() if k is kind), "")
        spec = specs.describe(attacker.settings, ATTACKS) if slug else kind.__name__
        bare = defence.spec == "none"
        return cls(
            defence, spec, attacker.settings, images.split or "given", 1 if bare else K, seed
        )

    @property
    def about(self) -> str:
        return f"{self.defence.name} / {self.attack}"

    @cached_property
    def experiment(self) -> Experiment | None:
        """The same with names that every command knows, if defence and attack have them."""
        if not self.defence.spec or self.attack.partition(":")[0] not in ATTACKS:
            return None
        bench = self.defence.bench.name
        return Experiment(self.defence.spec, self.attack, bench, self.split, self.K, self.seed)

    @cached_property
    def config(self) -> dict[str, Any]:
        """All settings, spelt out."""
        if self.experiment:
            return self.experiment.config
        bench = self.defence.bench
        own = {"name": self.defence.name, **self.defence.settings}
        attack = {"name": self.attack.partition(":")[0], **asdict(self.settings)}
        about = {"bench": bench.name, "split": self.split, "K": self.K, "seed": self.seed}
        return about | {"defence": own, "attack": attack, "weights": dict(bench.weights)}

    @property
    def classes(self) -> tuple[type, ...]:
        return (
            type(getattr(self.defence.module, "purifier", self.defence.module)),
            type(self.settings),
        )

    def path(self, folder: Path) -> Path:
        """The file of its records, where `hetpure` finds those of a named experiment."""
        if self.experiment:
            return self.experiment.path(folder)
        text = repr(sorted(self.config.items(), key=str))
        key = hashlib.sha256(text.encode()).hexdigest()[:8]
        name = "".join(c if c.isalnum() else "-" for c in self.about)
        return folder / "own" / self.defence.bench.name / f"{name}--{key}.jsonl"


# ---- a comparison --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two sets of records on the images that both have: the paired difference, its test, and both
    accuracies. A card in text, HTML, CSV and LaTeX."""

    first: Records
    second: Records
    judged: dict[str, Judged]

    @property
    def word(self) -> str:
        """``higher``, ``lower`` or ``inconclusive``: the first one's attacked accuracy."""
        return self.judged["adversarial"].word

    @property
    def p(self) -> float:
        """The p-value of the sign-flip test of attacked accuracy, after Holm's correction for
        both.
        """
        return self.judged["adversarial"].holm

    def frame(self) -> pd.DataFrame:
        """Attacked and clean accuracy of both in percent, their difference in points, and its
        test.
        """
        rows = {}
        for column, judged in self.judged.items():
            pair = rates(self.first.found, self.second.found, column)
            d = judged.difference
            rows[column] = {
                self.first.defence: 100 * pair[0].mean(),
                self.second.defence: 100 * pair[1].mean(),
                "difference": 100 * d.value,
                "low": 100 * d.low,
                "high": 100 * d.high,
                "p (Holm)": judged.holm,
                "first is": judged.word,
                "n": d.n,
            }
        return pd.DataFrame(rows).T

    @property
    def title(self) -> str:
        return f"{self.first.defence} against {self.second.defence}, {self.first.attack}"

    def __str__(self) -> str:
        d = self.judged["adversarial"].difference
        said = (
            f"attacked accuracy is {self.word} by {100 * d.value:.1f} points, n = {d.n}, p ="
            f" {self.p:.2g}"
        )
        return f"{self.title}: {said}\n{_rounded(self.frame()).to_string()}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return _html(_rounded(self.frame()), self.title)

    def to_csv(self) -> str:
        return self.frame().to_csv()

    def to_latex(self) -> str:
        return _latex(_rounded(self.frame()), self.title)


def compare(first: Records, second: Records) -> Comparison:
    """The paired difference of two sets of records on the images that both have, first minus
    second.

    Sign-flip test at 5 % with Holm's correction over attacked and clean accuracy; the interval says
    how large the difference is. Raises `ValueError` if they share no image.

    >>> bench, images = hp.load_bench(), hp.load_images("cifar10", n=2, split="sample")
    >>> records = hp.evaluate(hp.defend(bench, None), "noise", images, progress=False)
    >>> hp.compare(records, records).word
    'inconclusive'
    """
    clean = rates(first.found, second.found, "clean")
    if not len(clean[0]):
        raise ValueError("the two evaluations share no image: evaluate both on the same images")
    attacked = Pair(*rates(first.found, second.found), clean)
    return Comparison(first, second, judge({"adversarial": attacked, "clean": Pair(*clean)}))


def audit(
    defence: Defence,
    images: Images | None = None,
    budget: str = "minute",
    live: bool = True,
    progress: bool = True,
) -> Card:
    """The report card of a defence, the same as of ``hetpure audit``: as text, HTML, LaTeX, JSON.

    One with a spec is judged from the records of its bench and (`live`) a short live run; any other
    by a live run of several attacks within a `budget` of ``minute``, ``hour`` or ``night``, on
    `images` or on as many as the budget says. Raises `ValueError` for an unknown budget, fewer than
    two images, and a purifier that does not return finite images of the same shape.

    >>> bench = hp.load_bench("cifar10-small")
    >>> card = hp.audit(hp.defend(bench, "none"), live=False)
    >>> card.name, "checks" in card.as_json()
    ('none', True)
    """
    if budget not in lab_card.BUDGETS:
        raise ValueError(f"unknown budget {budget!r}; known: {', '.join(lab_card.BUDGETS)}")
    if images is None and (live or not defence.spec):
        wanted = lab_card.LEAST if defence.spec else lab_card.BUDGETS[budget].images
        found = load_images(defence.bench.dataset)
        images = found.take(min(wanted, len(found)))
    if defence.spec:
        return lab_card.audit(defence.spec, defence.bench, budget, images, live)
    return lab_card.audit(_function(defence), defence.bench, budget, images, quiet=not progress)


def _function(defence: Defence) -> Purify:
    """A defence without a spec as a function from images to images, under its name."""
    denoiser = getattr(defence.module, "denoiser", None)
    given = getattr(denoiser, "function", None) or partial(_seeded, defence)

    def function(x: Tensor) -> Tensor:
        return given(x)

    function.__name__ = defence.name
    return function


def _seeded(defence: Defence, x: Tensor) -> Tensor:
    """One purification whose noise follows torch's generator, as `own` replays it."""
    key = int(torch.randint(2**31, ()).item())
    module: Any = lab_attacks.reseeded(defence.module, key)
    return module.purify(x, module.noise(len(x), range(len(x))))


# ---- cards ---------------------------------------------------------------------------------------


def _rounded(frame: pd.DataFrame) -> pd.DataFrame:
    short = {c: 3 if c.startswith("p ") else 1 for c in frame if c not in ("first is", "n")}
    return frame.assign(**{c: frame[c].astype(float).round(k) for c, k in short.items()})


def _html(frame: pd.DataFrame, title: str) -> str:
    table = frame.to_html(float_format="{:.1f}".format, border=0)
    return table.replace("<thead>", f"<caption>{escape(title)}</caption><thead>", 1)


def _latex(frame: pd.DataFrame, title: str) -> str:
    """A table for the package booktabs."""
    special = str.maketrans({"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#"})
    rows = [["", *map(str, frame.columns)]]
    rows += [
        [str(i), *(f"{v:.1f}" if isinstance(v, float) else str(v) for v in row)]
        for i, row in zip(frame.index, frame.itertuples(index=False))
    ]
    lines = [" & ".join(cell.translate(special) for cell in row) + r" \\" for row in rows]
    head = [r"\begin{table}", rf"\caption{{{title.translate(special)}}}"]
    head += [
        rf"\begin{{tabular}}{{l{'r' * len(frame.columns)}}}",
        r"\toprule",
        lines[0],
        r"\midrule",
    ]
    return "\n".join([*head, *lines[1:], r"\bottomrule", r"\end{tabular}", r"\end{table}"])
