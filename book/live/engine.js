// Between the page and its workers: unpack what came with the page, start the workers, hand out tasks.

const NEEDED = [
  [() => typeof WebAssembly === "object", "WebAssembly"],
  [() => WebAssembly.validate(Uint8Array.from(SIMD_PROBE)), "the vector instructions of WebAssembly"],
  [() => typeof Worker === "function", "web workers"],
  [() => typeof DecompressionStream === "function", "DecompressionStream"],
];

// (module (func (result v128) i32.const 0 i8x16.splat i8x16.popcnt)): valid only where SIMD is known.
const SIMD_PROBE = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

const REFUSED = "this browser refuses to run the worker that the page brings along";

// What this browser lacks, or "".
function lacking() {
  const missing = NEEDED.find(([there]) => !there());
  return missing ? missing[1] : "";
}

async function unpack({ base64 }) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// One or two workers, each with networks of its own; a task goes to the first that is free.
class Engine {
  constructor(source, size) {
    this.waiting = [];
    this.asked = new Map();
    this.count = 0;
    try {
      const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      this.workers = Array.from({ length: size }, () => new Worker(address));
    } catch {
      throw new Error(REFUSED);
    }
    this.free = [];
    for (const worker of this.workers) {
      worker.onmessage = ({ data }) => this.settle(worker, data);
      worker.onerror = (event) => this.fail(event.message || REFUSED);
    }
  }

  // The engine with its networks loaded, from the parts of the packed script.
  static async load(parts, size) {
    const { packs, graphs, worker } = parts;
    const names = Object.keys(packs);
    const unpacked = await Promise.all(names.map((name) => unpack(packs[name])));
    const content = Object.fromEntries(names.map((name, i) => [name, unpacked[i]]));
    const input = {
      ort: new TextDecoder().decode(content.ort),
      wasm: content.wasm,
      weights: content.weights,
      graphs: Object.fromEntries(graphs.map((name) => [name, content[name]])),
    };
    const engine = new Engine(worker, size);
    await Promise.all(engine.workers.map((one) => engine.send(one, "start", input)));
    engine.free = [...engine.workers];
    engine.next();
    return engine;
  }

  // A promise of what the worker answers to a task.
  ask(task, input) {
    return new Promise((resolve, reject) => {
      this.waiting.push({ task, input, resolve, reject });
      this.next();
    });
  }

  // Forget the tasks that no worker has begun.
  clear() {
    for (const { reject } of this.waiting.splice(0)) reject(new Stopped());
  }

  next() {
    while (this.free.length && this.waiting.length) {
      const { task, input, resolve, reject } = this.waiting.shift();
      const worker = this.free.pop();
      this.send(worker, task, input).then(resolve, reject).finally(() => {
        this.free.push(worker);
        this.next();
      });
    }
  }

  send(worker, task, input) {
    return new Promise((resolve, reject) => {
      const id = this.count++;
      this.asked.set(id, { resolve, reject });
      worker.postMessage({ id, task, input });
    });
  }

  settle(worker, { id, output, error }) {
    const { resolve, reject } = this.asked.get(id);
    this.asked.delete(id);
    if (error === undefined) resolve(output);
    else reject(new Error(error));
  }

  fail(message) {
    for (const { reject } of this.asked.values()) reject(new Error(message));
    this.asked.clear();
  }
}

// The reader, or a newer wish of hers, ended this.
class Stopped extends Error {}
