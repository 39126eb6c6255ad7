// The part of the page that computes: a worker with onnxruntime-web and the four graphs. It answers one message at a time.

const NETWORKS = {};

async function start({ ort: source, wasm, weights, graphs }) {
  const ort = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" }))).catch(() => {
    throw new Error("this browser refuses to load the runtime that the page brings along");
  });
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = wasm.buffer;
  ort.env.logLevel = "error";
  const externalData = [{ path: "weights", data: weights }];
  const sessions = {};
  for (const [name, graph] of Object.entries(graphs)) {
    sessions[name] = await ort.InferenceSession.create(graph, { externalData, executionProviders: ["wasm"] });
  }
  const side = Math.sqrt(PIXELS);
  const image = (x) => new ort.Tensor("float32", x, [1, CHANNELS, side, side]);
  const time = (t) => new ort.Tensor("float32", [t], [1]);
  Object.assign(NETWORKS, {
    eps: async (x, t) => (await sessions.eps.run({ x: image(x), time: time(t) })).eps.data,
    product: async (x, t, v) => (await sessions.product.run({ x: image(x), time: time(t), vector: image(v) })).product.data,
    look: async (x) => {
      const { logits, maps } = await sessions.look.run({ image: image(x) });
      return { logits: logits.data, maps: maps.data };
    },
    ascend: async (x, label) => {
      const { loss, gradient } = await sessions.ascend.run({ image: image(x), label: new ort.Tensor("float32", label, [1, label.length]) });
      return { loss: loss.data[0], gradient: gradient.data };
    },
  });
}

// Noise from a key, or the tensors themselves, by the name of the draw (so can Python and this page be compared).
function noiseOf({ key, draws }) {
  if (!draws) return gaussianNoise(...key);
  return (draw) => {
    if (!draws[draw]) throw new Error(`There is no noise called "${draw}".`);
    return Float32Array.from(draws[draw]);
  };
}

const TASKS = {
  start,
  look: ({ image }) => NETWORKS.look(image),
  purify: ({ image, defence, noise, mask }) => purify(image, defence, noiseOf(noise), NETWORKS, mask),
  ascend: ({ image, label, defence, noise, mask }) => lossGradient(image, label, defence, noiseOf(noise), NETWORKS, mask),
};

self.onmessage = async ({ data: { id, task, input } }) => {
  const began = performance.now();
  try {
    const output = await TASKS[task](input);
    self.postMessage({ id, output: { ...output, ms: performance.now() - began } });
  } catch (error) {
    self.postMessage({ id, error: error.message || String(error) });
  }
};
