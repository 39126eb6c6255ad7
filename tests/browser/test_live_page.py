"""The live page in a real browser: from a file and over http, against PyTorch, attacking, with bad
input, and where it cannot run.

Needs Chromium: the one named by ``HETPURE_CHROMIUM``, or one on the path.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hetpure_core import HetPure, Noise, Purified, Uniform, trajectory
from hetpure_lab import data as lab_data
from hetpure_lab.networks import benches
from hetpure_lab.report import browser as browsers
from hetpure_lab.report import live

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = browsers.chromium()
pytestmark = pytest.mark.skipif(not CHROMIUM, reason=browsers.MISSING)

WAIT = 120_000  # milliseconds that a loaded machine may take for what takes seconds


# ---- the page ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder() -> Path:
    """The live part as a page of its own."""
    said = live.standalone(live.TARGET)
    if "still picture" in said:
        pytest.skip(said)
    return live.TARGET


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as p:
        found = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Visit:
    """A page, what went wrong in it, and which addresses it asked for."""

    def __init__(
        self, browser: playwright.Browser, address: str, script: str = "", width: int = 1280
    ):
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.wrong, self.asked = [], []
        self.page.on(
            "console",
            lambda m: self.wrong.append(m.text) if m.type in ("error", "warning") else None,
        )
        self.page.on("pageerror", lambda e: self.wrong.append(str(e)))
        self.page.on("request", lambda r: self.asked.append(r.url))
        if script:
            self.page.add_init_script(script)
        self.page.goto(address)

    def settled(self) -> Visit:
        """Wait until the page has purified what it shows."""
        self.page.wait_for_selector("#live-figures dd", timeout=WAIT)
        self.page.wait_for_timeout(350)  # the page waits for the end of a movement of a slider
        self.page.wait_for_function(
            "!document.body.classList.contains('live-working')", timeout=WAIT
        )
        return self

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def set(self, field: str, value: object) -> None:
        self.page.eval_on_selector(
            f"#live-{field}",
            "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }",
            str(value),
        )

    def ask(self, task: str, **inputs: object) -> dict:
        """What the page's own engine answers; tensors go in as lists and come back as arrays."""
        code = """async ([task, input]) => {
          const floats = (x) => Array.isArray(x) ? Float32Array.from(x) : x;
          const given = Object.fromEntries(Object.entries(input).map(([k, v]) => [k, floats(v)]));
          const plain = (x) =>
            ArrayBuffer.isView(x) ? Array.from(x) : Array.isArray(x) ? x.map(plain)
            : x && typeof x === "object"
              ? Object.fromEntries(Object.entries(x).map(([k, v]) => [k, plain(v)])) : x;
          return plain(await (await window.hetpure).ask(task, given));
        }"""
        return self.page.evaluate(code, [task, inputs])


def seconds(visit: Visit, figure: str) -> float:
    """One of the times that the page says it has measured."""
    shown = visit.page.eval_on_selector_all("#live-figures div", "e => e.map((d) => d.innerText)")
    return float(dict(line.split("\n") for line in shown)[figure].split()[0])


@pytest.fixture(scope="module")
def visit(browser, folder) -> Visit:
    return Visit(browser, (folder / "index.html").as_uri()).settled()


@pytest.fixture
def http_address(folder) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/index.html"
    server.shutdown()


def first_look(browser, folder, visit: Visit, limit: float) -> float:
    """Seconds until both defences are first shown: of `visit`, or of the fastest of two more.

    What else a machine does can only add to a time, so the least is nearest to the page's own.
    """
    took = seconds(visit, "first look, both defences")
    for _ in range(2 if took >= limit else 0):
        again = Visit(browser, (folder / "index.html").as_uri()).settled()
        took = min(took, seconds(again, "first look, both defences"))
        again.page.close()
    return took


def test_from_a_file_it_purifies_within_seconds_and_asks_for_nothing_else(visit, browser, folder):
    assert visit.wrong == []
    assert all(url.startswith(("file:", "blob:")) for url in visit.asked)
    assert len(visit.page.query_selector_all(".live-strip.live-method canvas")) == 11
    assert first_look(browser, folder, visit, limit=5) < 5


def test_over_http_it_asks_only_its_own_server(browser, http_address):
    visit = Visit(browser, http_address).settled()
    assert visit.wrong == []
    assert all(url.startswith((http_address.rsplit("/", 1)[0], "blob:")) for url in visit.asked)
    visit.page.close()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(visit, width, theme):
    visit.page.set_viewport_size({"width": width, "height": 900})
    visit.page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
    for details in visit.page.query_selector_all("details"):
        details.evaluate("e => e.open = true")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.page.set_viewport_size({"width": 1280, "height": 900})


# ---- parity --------------------------------------------------------------------------------------


class Recording:
    """Noise that remembers what it gave, by the name of the draw."""

    def __init__(self, noise: Noise):
        self.noise, self.draws = noise, {}

    def __call__(self, draw: str, like: Tensor) -> Tensor:
        self.draws[draw] = self.noise(draw, like)
        return self.draws[draw]


@pytest.fixture(scope="module")
def bench() -> benches.Bench:
    return benches.load(live.BENCH)


def as_json(purifier: HetPure | Uniform) -> dict:
    if isinstance(purifier, Uniform):
        return {"kind": "uniform", "t": purifier.t, "steps": purifier.steps}
    return {"kind": "method"} | {
        name: getattr(purifier, name) for name in ("t_l", "t_s", "tau", "U", "steps")
    }


def flat(x: Tensor) -> list[float]:
    return x.detach().flatten().tolist()


SETTINGS = {
    "the method": HetPure(),
    "stronger, lower threshold": HetPure(t_l=0.4, t_s=0.2, tau=0.5, U=3, steps=6),
    "one step each": HetPure(t_l=0.2, t_s=0.1, steps=2),
    "resampling up to the last time": HetPure(t_l=0.9, t_s=0.86, U=150, steps=8),
    "uniform": Uniform(),
    "uniform, one step": Uniform(0.14, 1),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_state_and_the_gradient_are_pytorchs(visit, bench, name):
    purifier, index = SETTINGS[name], list(SETTINGS).index(name)
    images = lab_data.shipped(bench.dataset)
    image, label = images.floats[index : index + 1], images.labels[index : index + 1]
    defended, noise = (
        Purified(bench.classifier, bench.denoiser, purifier, seed=3),
        Recording(Noise(3, [images.ids[index]], [0])),
    )
    mask = defended.mask(image, noise)

    x = image.clone().requires_grad_()
    states = list(trajectory(2 * x - 1, defended.plan(x, noise, mask)))
    logits = defended.classifier((states[-1][1] + 1) / 2)
    loss = F.cross_entropy(logits, label)
    gradient = torch.autograd.grad(loss, x)[0]

    inputs = {
        "image": flat(image),
        "defence": as_json(purifier),
        "noise": {"draws": {k: flat(v) for k, v in noise.draws.items()}},
    }
    seen = visit.ask("purify", **inputs)
    if mask is not None:
        assert seen["mask"] == flat(mask)
    assert [s["time"] for s in seen["states"]] == [time for time, _ in states]
    for ours, (_, theirs) in zip(seen["states"], states, strict=True):
        np.testing.assert_allclose(ours["x"], flat(theirs), atol=1e-3)
    np.testing.assert_allclose(seen["logits"], flat(logits), atol=1e-3)

    climbed = visit.ask("ascend", **inputs, label=flat(F.one_hot(label, 10).float()))
    assert climbed["loss"] == pytest.approx(loss.item(), abs=1e-3)
    assert np.linalg.norm(np.subtract(climbed["gradient"], flat(gradient))) < 1e-3 * float(
        gradient.norm()
    )


def test_the_maps_and_the_bare_classifiers_gradient_are_pytorchs(visit, bench):
    images = lab_data.shipped(bench.dataset)
    image, label = images.floats[7:8], images.labels[7:8]
    with torch.no_grad():
        logits = bench.classifier(image)
    seen = visit.ask("look", image=flat(image))
    np.testing.assert_allclose(seen["logits"], flat(logits), atol=1e-3)
    x = image.clone().requires_grad_()
    gradient = torch.autograd.grad(F.cross_entropy(bench.classifier(x), label), x)[0]
    inputs = {
        "defence": {"kind": "none"},
        "noise": {"draws": {}},
        "label": flat(F.one_hot(label, 10).float()),
    }
    climbed = visit.ask("ascend", image=flat(image), **inputs)
    assert np.linalg.norm(np.subtract(climbed["gradient"], flat(gradient))) < 1e-3 * float(
        gradient.norm()
    )


def test_a_task_that_fails_says_why_and_the_next_one_works(visit):
    with pytest.raises(playwright.Error, match="no noise called"):
        visit.ask("purify", image=[0.5] * 3072, defence=as_json(Uniform()), noise={"draws": {}})
    assert len(visit.ask("look", image=[0.5] * 3072)["logits"]) == 10


# ---- attacks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "uniform", "method"])
def test_an_attack_lowers_the_right_class_and_ends_in_a_verdict(browser, folder, kind):
    visit = Visit(browser, (folder / "index.html").as_uri()).settled()
    for name, value in {"iterations": 6, "eot": 1, "votes": 2}.items():
        visit.set(f"budget-{name}", value)
    visit.page.click(f".live-card.live-{kind} button")
    visit.page.wait_for_selector(".live-verdict", timeout=WAIT)
    rows = visit.page.eval_on_selector_all(
        "#live-result .live-votes tbody tr",
        "e => e.map((r) => r.querySelectorAll('.live-chip').length)",
    )
    assert rows == [1 if kind == "none" else 2] * 3
    points = visit.page.get_attribute(".live-curve polyline", "points").split()
    heights = [float(p.split(",")[1]) for p in points]
    assert len(heights) == 6
    assert heights[-1] > heights[0]  # further down: less probable
    visit.settled()
    assert visit.page.get_attribute("[data-show='attacked']", "aria-pressed") == "true"
    assert seconds(visit, "one step of the last attack") < 15
    if kind == "none":
        assert "fooled" in visit.text(".live-headline")
        assert "wrong" in visit.page.get_attribute(".live-card.live-none .live-answer", "class")
    assert visit.wrong == []
    visit.page.close()


def test_stop_ends_the_attack_early_with_what_there_is(browser, folder):
    visit = Visit(browser, (folder / "index.html").as_uri()).settled()
    visit.set("budget-iterations", 100)
    visit.set("budget-votes", 1)
    visit.page.click(".live-card.live-method button")
    visit.page.wait_for_selector(".live-curve polyline", timeout=WAIT)
    assert visit.page.is_disabled("#live-method-tau")
    visit.page.keyboard.press("Enter")  # the focus is on Stop
    visit.page.wait_for_selector(".live-verdict", timeout=WAIT)
    assert len(visit.page.get_attribute(".live-curve polyline", "points").split()) < 50
    visit.settled()
    assert not visit.page.is_disabled("#live-method-tau")
    visit.page.close()


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("method-t_s", 0.3, "must be below the strong noise"),
        ("method-steps", 1, "too few"),
        ("seed", "1.5", "whole number"),
        ("seed", "", "not nothing"),
        ("seed", "12345678901234567890", "at most 15 digits"),
    ],
)
def test_settings_that_make_no_sense_get_a_sentence_and_the_page_goes_on(visit, field, value, said):
    before = visit.page.input_value(f"#live-{field}")
    visit.set(field, value)
    visit.page.wait_for_function("document.getElementById('live-error').textContent")
    assert said in visit.text("#live-error")
    if field != "seed":
        visit.page.click(".live-card.live-method button")
        assert visit.page.is_hidden("#live-progress")
    visit.set(field, before)
    visit.settled()
    assert visit.page.text_content("#live-error") == ""


@pytest.mark.parametrize(
    "settings",
    [
        {"method-tau": 0, "method-U": 0, "method-steps": -3},
        {"method-tau": 1, "method-U": 1e9, "uniform-steps": "NaN"},
        {"method-t_l": 1, "method-t_s": 0.99, "uniform-t": 7, "seed": -5},
    ],
)
def test_sliders_keep_to_their_ranges_and_the_ends_of_these_work(visit, settings):
    visit.page.click("#live-reset", force=True)
    for field, value in settings.items():
        visit.set(field, value)
    if settings.get("method-steps") == -3:
        assert visit.page.input_value("#live-method-steps") == "1"
        visit.set("method-steps", 2)
    visit.settled()
    assert visit.page.text_content("#live-error") == "" and visit.wrong == []
    assert len(visit.page.query_selector_all(".live-card")) == 3
    visit.page.evaluate("document.getElementById('live-reset').click()")
    visit.settled()


NOTE = "document.getElementById('live-picture-note').textContent"


def speckled(height: int, width: int) -> Image.Image:
    return Image.fromarray(
        np.random.RandomState(0).randint(0, 255, (height, width, 3), dtype=np.uint8)
    )


def photo(file: Path) -> None:
    speckled(2600, 3000).save(file, quality=100)
    assert file.stat().st_size > 10e6


FILES = {
    "photo.jpg": (photo, "3000 × 2600"),
    "tiny.png": (lambda f: Image.new("RGBA", (1, 1), (255, 0, 0, 0)).save(f), "1 × 1"),
    "line.png": (lambda f: speckled(20, 6000).save(f), "6000 × 20"),
    "ink.jpg": (lambda f: Image.new("CMYK", (90, 60), (9, 99, 0, 0)).save(f), "90 × 60"),
    "moving.gif": (
        lambda f: speckled(48, 64).save(f, save_all=True, append_images=[speckled(48, 64)]),
        "64 × 48",
    ),
    "deep.png": (lambda f: Image.new("I;16", (40, 40), 40_000).save(f), "40 × 40"),
    "drawing.svg": (
        lambda f: f.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
        "cannot read",
    ),
    "notes.png": (lambda f: f.write_text("no picture"), "cannot read"),
    "nothing.png": (lambda f: f.write_bytes(b""), "cannot read"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_picture_of_another_kind_is_fitted_and_another_file_refused(visit, tmp_path, name):
    write, said = FILES[name]
    write(tmp_path / name)
    visit.page.check("input[name=live-sample] >> nth=0", force=True)
    visit.page.set_input_files("#live-file", tmp_path / name)
    visit.page.wait_for_function(f"{NOTE}.includes('{said}')", timeout=WAIT)
    visit.settled()
    assert visit.wrong == [] and visit.page.text_content("#live-error") == ""
    kept = visit.page.is_checked("input[name=live-sample] >> nth=0")
    assert kept == (said == "cannot read")


def test_a_picture_that_is_read_during_an_attack_comes_too_late(browser, folder, tmp_path):
    visit = Visit(browser, (folder / "index.html").as_uri()).settled()
    visit.page.evaluate(
        """() => {
          const real = window.createImageBitmap;
          window.createImageBitmap = async (file) => {
            await new Promise((resolve) => setTimeout(resolve, 800));
            return real(file);
          };
        }"""
    )
    visit.set("budget-iterations", 100)
    visit.set("budget-votes", 1)
    speckled(60, 60).save(tmp_path / "late.png")
    visit.page.set_input_files("#live-file", tmp_path / "late.png")
    # twice: the second press finds the first attack at work
    visit.page.evaluate(
        "const b = document.querySelector('.live-card.live-method button'); b.click(); b.click()"
    )
    visit.page.wait_for_function(f"{NOTE}.includes('choose it again afterwards')", timeout=WAIT)
    visit.page.wait_for_selector(".live-curve polyline", timeout=WAIT)
    visit.page.click("#live-stop")
    visit.page.wait_for_selector(".live-verdict", timeout=WAIT)
    visit.settled()
    assert visit.page.is_checked("input[name=live-sample] >> nth=0")
    assert len(visit.page.query_selector_all("#live-tally tbody tr")) == 1
    visit.page.set_input_files("#live-file", tmp_path / "late.png")  # the same file again
    visit.page.wait_for_function(f"{NOTE}.includes('60 × 60')", timeout=WAIT)
    visit.settled()
    assert visit.wrong == []
    visit.page.close()


def test_a_picture_of_32_pixels_is_taken_as_it_is(visit, bench, tmp_path):
    image = lab_data.shipped(bench.dataset).pixels[4].permute(1, 2, 0).numpy()
    Image.fromarray(image).save(tmp_path / "own.png")
    visit.page.set_input_files("#live-file", tmp_path / "own.png")
    visit.page.wait_for_function(
        "document.getElementById('live-picture-note').textContent.includes('as it is')"
    )
    visit.settled()
    drawn = visit.page.evaluate(
        """() => {
          const canvas = document.querySelector("#live-where canvas");
          return Array.from(canvas.getContext("2d").getImageData(0, 0, 32, 32).data);
        }"""
    )
    assert (np.reshape(drawn, (32, 32, 4))[..., :3] == image).all()


def test_the_arrow_keys_choose_a_picture(visit):
    visit.page.focus("input[name=live-sample] >> nth=0")
    visit.page.check("input[name=live-sample] >> nth=0", force=True)
    visit.settled()
    before = visit.page.input_value("#live-label")
    visit.page.keyboard.press("ArrowRight")
    visit.settled()
    assert visit.page.input_value("#live-label") != before


def test_a_link_brings_back_picture_and_settings(browser, folder):
    address = (folder / "index.html").as_uri()
    first = Visit(browser, address).settled()
    first.page.check("input[name=live-sample] >> nth=4", force=True)
    first.set("method-tau", 0.55)
    first.set("seed", 7)
    first.settled()
    first.page.wait_for_function("location.hash.includes('seed=7')")
    second = Visit(browser, first.page.url).settled()
    assert second.page.is_checked("input[name=live-sample] >> nth=4")
    assert second.page.input_value("#live-method-tau") == "0.55"
    assert second.page.input_value("#live-seed") == "7"
    assert second.text(".live-cards") == first.text(".live-cards")
    second.page.close()
    first.page.close()


def test_nonsense_in_a_link_is_passed_over(browser, folder):
    address = (folder / "index.html").as_uri()
    visit = Visit(
        browser, f"{address}#picture=99&seed=1e21&method.tau=7&method.t_l=abc&foo=<b>"
    ).settled()
    assert visit.page.input_value("#live-seed") == "0"
    assert visit.page.is_checked("input[name=live-sample] >> nth=19")
    assert visit.page.input_value("#live-method-tau") == "1"
    assert visit.wrong == []
    visit.page.close()


MISSING = {
    "WebAssembly": "WebAssembly",
    "Worker": "web workers",
    "DecompressionStream": "DecompressionStream",
}


@pytest.mark.parametrize("lost, said", MISSING.items())
def test_an_old_browser_keeps_the_still_picture_and_is_told_why(browser, folder, lost, said):
    visit = Visit(browser, (folder / "index.html").as_uri(), script=f"delete window.{lost}")
    visit.page.wait_for_function(
        "document.getElementById('hetpure-live-status').textContent.includes('still picture')"
    )
    assert f"no {said}" in visit.text("#hetpure-live-status")
    assert not visit.page.evaluate("document.getElementById('hetpure-still').hidden")
    assert visit.wrong == []
    visit.page.close()


@pytest.mark.parametrize("refused", ["worker-src 'none'", "script-src 'self' 'unsafe-eval'"])
def test_where_blob_addresses_are_refused_the_still_picture_stays(
    browser, folder, tmp_path, refused
):
    """By a policy of the server's, as a real browser obeys it."""
    for name in ("live.js", "live.css", "packed.js"):
        shutil.copy(folder / name, tmp_path)
    policy = f'<head><meta http-equiv="Content-Security-Policy" content="{refused}">'
    html = (folder / "index.html").read_text()
    assert "<head>" in html
    (tmp_path / "index.html").write_text(html.replace("<head>", policy, 1))
    visit = Visit(browser, (tmp_path / "index.html").as_uri())
    text = "document.getElementById('hetpure-live-status').textContent"
    visit.page.wait_for_function(f"{text}.includes('refuses to')", timeout=WAIT)
    assert visit.text("#hetpure-live-status").count(".") == 1
    assert not visit.page.evaluate("document.getElementById('hetpure-still').hidden")
    visit.page.close()


def test_a_build_without_npm_says_so_beside_the_still_picture(browser, folder, tmp_path):
    for name in ("index.html", "live.js", "live.css"):
        shutil.copy(folder / name, tmp_path)
    (tmp_path / "packed.js").write_text(live.packed_script({"unavailable": "npm is not installed"}))
    visit = Visit(browser, (tmp_path / "index.html").as_uri())
    text = "document.getElementById('hetpure-live-status').textContent"
    visit.page.wait_for_function(f"{text}.includes('npm is not installed')")
    assert not visit.page.evaluate("document.getElementById('hetpure-still').hidden")
    assert visit.wrong == []
    visit.page.close()


def test_without_javascript_the_still_picture_stands_there(browser, folder):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / "index.html").as_uri())
    assert "JavaScript" in page.inner_text("#hetpure-live-status")
    context.close()
