// Algorithm 1 with the errata applied, and its exact gradient: hetpure_core.py (reading "paper", sampler "ddim") for one image.
//
// Images and states are Float32Array of 3 x 32 x 32 values, channel by channel. The two networks are the only things that are not written out
// here: `networks` has eps(x, t), product(x, t, v) (the vector-Jacobian product of eps with respect to x), look(image) and
// ascend(image, label). Names of moves and of draws of noise are those of hetpure_core.py, where every formula is explained.
"use strict";

const CHANNELS = 3;
const PIXELS = 32 * 32;
const T = 1000;
const EPS = 8 / 255;

// abar_0 = 1 > abar_1 > ... > abar_T, the linear schedule of DDPM.
const ABAR = (() => {
  const abar = new Float64Array(T + 1);
  abar[0] = 1;
  for (let t = 1; t <= T; t++) abar[t] = abar[t - 1] * (1 - (1e-4 + ((2e-2 - 1e-4) * (t - 1)) / (T - 1)));
  return abar;
})();

// ---- settings and times ---------------------------------------------------------------------------------------------------

// Half to even, as Python rounds.
function roundHalfEven(x) {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 === 0 ? low : low + 1;
}

function timeIndex(name, fraction) {
  if (!(fraction > 0 && fraction <= 1)) throw new Error(`${name} is a fraction of the whole time, above 0 and at most 1, not ${fraction}.`);
  return Math.max(1, roundHalfEven(fraction * T));
}

function wholeNumber(name, value) {
  if (!Number.isInteger(value) || value < 1) throw new Error(`${name} must be a whole number of at least 1, not ${value}.`);
  return value;
}

function descend(start, stop, n) {
  const times = [start];
  for (let i = 1; i <= n; i++) times.push(roundHalfEven(start + ((stop - start) * i) / n));
  return times;
}

// The times of stage 1 (t_l down to t_s) and of stage 2 (t_s down to 0).
function timeGrid(t_l, t_s, steps) {
  let n_2 = Math.max(1, Math.ceil((steps * t_s) / t_l));
  const n_1 = t_s === t_l ? 0 : Math.max(1, Math.min(steps - n_2, t_l - t_s));
  n_2 = Math.min(Math.max(steps - n_1, 0), t_s);
  if (n_2 < 1) throw new Error(`${steps} step is too few: a process with two noise levels needs at least 2 steps.`);
  return [descend(t_l, t_s, n_1), descend(t_s, 0, n_2)];
}

// The times of a defence; raises an Error with a sentence for settings that make no sense.
function gridOf(defence) {
  const steps = wholeNumber("The number of steps", defence.steps);
  if (defence.kind === "uniform") {
    const t = timeIndex("The noise level t", defence.t);
    return timeGrid(t, t, steps);
  }
  const t_l = timeIndex("The strong noise t_l", defence.t_l);
  const t_s = timeIndex("The weak noise t_s", defence.t_s);
  wholeNumber("The resampling U", defence.U);
  if (t_s >= t_l) throw new Error(`The weak noise t_s = ${defence.t_s} must be below the strong noise t_l = ${defence.t_l}.`);
  if (!(defence.tau >= 0 && defence.tau <= 1)) throw new Error(`The threshold tau lies between 0 and 1; it cannot be ${defence.tau}.`);
  return timeGrid(t_l, t_s, steps);
}

// ---- noise ----------------------------------------------------------------------------------------------------------------

// Standard normal noise keyed by (seed, image, copy, draw). The keys are this page's own: the same key gives other numbers in Python.
function gaussianNoise(seed, image, copy) {
  return (draw, length = CHANNELS * PIXELS) => {
    const uniform = generator(`${seed}\0${image}\0${copy}\0${draw}`);
    const noise = new Float32Array(length);
    for (let i = 0; i < length; i += 2) {
      const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
      const angle = 2 * Math.PI * uniform();
      noise[i] = radius * Math.cos(angle);
      if (i + 1 < length) noise[i + 1] = radius * Math.sin(angle);
    }
    return noise;
  };
}

// Numbers in [0, 1): four words hashed from the key (cyrb128), then the generator sfc32.
function generator(key) {
  const primes = [597399067, 2869860233, 951274213, 2716044179];
  const h = [1779033703, 3144134277, 1013904242, 2773480762];
  for (let i = 0; i < key.length; i++) {
    for (let k = 0; k < 4; k++) h[k] = h[(k + 1) % 4] ^ Math.imul(h[k] ^ key.charCodeAt(i), primes[k]);
  }
  let [a, b, c, d] = h;
  const next = () => {
    const sum = (((a + b) | 0) + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum | 0;
    return (sum >>> 0) / 4294967296;
  };
  for (let i = 0; i < 20; i++) next();
  return next;
}

// ---- moves: x -> x, and v -> v on the way back -------------------------------------------------------------------------------

const combine = (a, x, b, y) => x.map((value, i) => a * value + b * y[i]);
const scaled = (a, x) => x.map((value) => a * value);
const signal = (t) => Math.sqrt(ABAR[t]);
const sigma = (t) => Math.sqrt(1 - ABAR[t]);

// Eq 1: diffuse every pixel of the input to t.
function diffuse(t, noise) {
  return {
    forward: async (x) => combine(signal(t), x, sigma(t), noise("start")),
    backward: async (v) => scaled(signal(t), v),
  };
}

// Eq 10 between any two times: diffuse on from s to t.
function diffuseOn(s, t, draw, noise) {
  const keep = Math.sqrt(ABAR[t] / ABAR[s]);
  const add = Math.sqrt(1 - ABAR[t] / ABAR[s]);
  return {
    forward: async (x) => combine(keep, x, add, noise(draw)),
    backward: async (v) => scaled(keep, v),
  };
}

// Eq 5 and 6: noise t_l inside the mask; outside t_s, then the rest up to t_l.
function diffuseHeterogeneously(t_l, t_s, mask, noise) {
  const keep = Math.sqrt(ABAR[t_l] / ABAR[t_s]);
  const add = Math.sqrt(1 - ABAR[t_l] / ABAR[t_s]);
  return {
    forward: async (x) => {
      const [strong, weak, rest] = ["start", "start weak", "start rest"].map((draw) => noise(draw));
      const inside = combine(signal(t_l), x, sigma(t_l), strong);
      const outside = combine(keep, combine(signal(t_s), x, sigma(t_s), weak), add, rest);
      return merge(mask, inside, outside);
    },
    backward: async (v) => merge(mask, scaled(signal(t_l), v), scaled(keep * signal(t_s), v)),
  };
}

function merge(mask, inside, outside) {
  return inside.map((value, i) => (mask[i % PIXELS] ? value : outside[i]));
}

// Eq 7 and 11 (DDIM): one call of the denoiser takes x from t to s; x -> a x + b eps(x, t).
function denoise(t, s, networks) {
  const a = signal(s) / signal(t);
  const b = sigma(s) - a * sigma(t);
  let seen = null;
  return {
    forward: async (x) => {
      seen = x;
      return combine(a, x, b, await networks.eps(x, t));
    },
    backward: async (v) => combine(a, v, b, await networks.product(seen, t, v)),
  };
}

// Eq 6 and 8: outside the mask, the input diffused to t replaces x. The way back adds to `known`, the gradient for the input.
function mergeKnown(t, mask, input, noise, known) {
  return {
    forward: async (x) => merge(mask, x, combine(signal(t), input, sigma(t), noise(`known ${t} `))),
    backward: async (v) => {
      for (let i = 0; i < v.length; i++) if (!mask[i % PIXELS]) known[i] += signal(t) * v[i];
      return v.map((value, i) => (mask[i % PIXELS] ? value : 0));
    },
  };
}

// The moves of a defence on `input` (in [-1, 1]); `arrives` marks the states that hetpure_core's trajectory has.
function plan(defence, input, mask, noise, networks, known) {
  const [stage1, stage2] = gridOf(defence);
  const start = stage1[0];
  const begin = defence.kind === "uniform" ? diffuse(start, noise) : diffuseHeterogeneously(start, stage1[stage1.length - 1], mask, noise);
  const moves = [{ ...begin, arrives: start, stage: 0 }];
  for (let i = 1; i < stage1.length; i++) {
    const [t, s] = [stage1[i - 1], stage1[i]];
    const up = Math.min(s + defence.U, T);
    moves.push(denoise(t, s, networks), mergeKnown(s, mask, input, noise, known), diffuseOn(s, up, `renoise ${s}`, noise));
    moves.push({ ...denoise(up, s, networks), arrives: s, stage: 1 });
  }
  for (let i = 1; i < stage2.length; i++) moves.push({ ...denoise(stage2[i - 1], stage2[i], networks), arrives: stage2[i], stage: 2 });
  return moves;
}

// How often a purification calls the denoiser.
function calls(defence) {
  if (defence.kind === "none") return 0;
  const [stage1, stage2] = gridOf(defence);
  return 2 * (stage1.length - 1) + stage2.length - 1;
}

// ---- purification and its gradient --------------------------------------------------------------------------------------------

// Eq 4: the union of the maps above the threshold, 1 or 0 per pixel.
function thresholdMask(maps, tau) {
  const mask = new Uint8Array(PIXELS);
  for (let i = 0; i < maps.length; i++) if (maps[i] > tau) mask[i % PIXELS] = 1;
  return mask;
}

// The mask of an image in [0, 1], or null for a defence that has none.
async function maskOf(image, defence, networks) {
  return defence.kind === "method" ? thresholdMask((await networks.look(image)).maps, defence.tau) : null;
}

async function forward(image, defence, mask, noise, networks) {
  if (defence.kind === "none") return { purified: image, moves: [], states: [], known: null };
  const input = image.map((value) => 2 * value - 1);
  const known = new Float32Array(input.length);
  const moves = plan(defence, input, mask, noise, networks, known);
  const states = [];
  let x = input;
  for (const move of moves) {
    x = await move.forward(x);
    if (move.arrives !== undefined) states.push({ time: move.arrives, stage: move.stage, x });
  }
  return { purified: x.map((value) => (value + 1) / 2), moves, states, known };
}

// A purification: the purified image (not clipped), the states on the way, mask, maps and logits.
async function purify(image, defence, noise, networks, mask) {
  const used = mask || (await maskOf(image, defence, networks));
  const { purified, states } = await forward(image, defence, used, noise, networks);
  return { purified, states, mask: used, logits: (await networks.look(purified)).logits };
}

// Loss of the defended classifier and its exact gradient with respect to the image: through every move and every use of the input, the
// noise replayed and the mask held fixed.
async function lossGradient(image, label, defence, noise, networks, mask) {
  const used = mask || (await maskOf(image, defence, networks));
  const { purified, moves, known } = await forward(image, defence, used, noise, networks);
  const { loss, gradient } = await networks.ascend(purified, label);
  if (defence.kind === "none") return { loss, gradient, mask: used };
  let v = scaled(0.5, gradient);
  for (const move of moves.reverse()) v = await move.backward(v);
  return { loss, gradient: combine(2, v, 2, known), mask: used };
}

// One step of projected gradient ascent in the l-infinity ball of radius `eps` around `clean`, then into [0, 1].
function climb(image, clean, gradient, step, eps) {
  return image.map((value, i) => {
    const moved = value + step * Math.sign(gradient[i]);
    return Math.min(1, Math.max(0, Math.min(clean[i] + eps, Math.max(clean[i] - eps, moved))));
  });
}

// A random corner of the same ball: what an attack has to beat.
function perturbRandomly(clean, noise, eps) {
  return clean.map((value, i) => Math.min(1, Math.max(0, value + eps * Math.sign(noise[i]))));
}

function softmax(logits) {
  const top = Math.max(...logits);
  const powers = Array.from(logits, (value) => Math.exp(value - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / sum);
}
