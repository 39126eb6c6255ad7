// Attacks: projected gradient ascent, fresh purifications afterwards, and the verdict in words.

// Projected gradient ascent on the loss, averaged over fresh purifications at every step, and then a verdict on noise it never saw.
async function attack(kind) {
  if (page.busy) return;
  let defence, budget, noises;
  try {
    defence = defenceOf(kind);
    if (kind !== "none") gridOf(defence);
    budget = group("budget");
    noises = (purpose) => (copy) => noiseFor(purpose, copy);
    seed();
  } catch (error) {
    at("error").textContent = error.message;
    at("error").scrollIntoView({ block: "center" });
    return;
  }
  begin();
  const { clean, label } = page.picture;
  const random = perturbRandomly(clean, gaussianNoise(`random ${seed()}`, page.picture.key, 0)("direction"), EPS);
  const job = { kind, defence, clean, label, random, budget, image: clean, right: [], done: 0 };
  try {
    await ascend(job, noises("attack "));
    page.stop = false;
    const votes = await judge(job, noises("judge "));
    page.attacked = { image: job.image };
    page.shown = "attacked";
    showVerdict(job, votes);
    at("status").textContent = "";
  } catch (error) {
    at("status").textContent = error instanceof Stopped ? "Stopped before the verdict." : `The attack ended early: ${error.message}`;
  }
  end();
  refresh();
}

function begin() {
  page.busy = true;
  page.stop = false;
  page.turn++;
  page.engine.clear();
  at("result").replaceChildren();
  at("progress").hidden = false;
  at("stop").focus();
  lock(true);
}

function end() {
  page.busy = false;
  at("progress").hidden = true;
  lock(false);
}

function lock(locked) {
  for (const control of page.root.querySelectorAll("input, select, button")) if (control.id !== "live-stop") control.disabled = locked;
}

async function ascend(job, noise) {
  const { kind, defence, clean, label, budget } = job;
  const copies = kind === "none" ? 1 : budget.eot;
  for (let k = 0; k < budget.iterations && !page.stop; k++) {
    const left = Math.ceil(((budget.iterations - k) * page.figures.step) / 1000);
    say(`Step ${k + 1} of ${budget.iterations}${k ? `, about ${left} s left` : ""}`, k / (budget.iterations + 1));
    const began = performance.now();
    const tasks = Array.from({ length: copies }, (_, e) =>
      page.engine.ask("ascend", { image: job.image, label: oneHot(label), defence, noise: noise(k * copies + e) }),
    );
    const found = await Promise.all(tasks);
    const gradient = found.map((one) => one.gradient).reduce((sum, one) => combine(1, sum, 1, one));
    job.right.push(found.reduce((sum, one) => sum + Math.exp(-one.loss), 0) / copies);
    job.image = climb(job.image, clean, gradient, budget.step / 255, EPS);
    job.done = k + 1;
    page.figures.step = performance.now() - began;
    page.figures.stepSays = copies === 1 ? "one gradient" : `${copies} gradients`;
    showAscent(job);
    await nextFrame();
  }
}

function say(text, part) {
  at("bar").value = part;
  at("status").textContent = `${text}.`;
}

function showAscent(job) {
  const pictures = [
    figure(canvas(ofImage(job.clean), "The clean picture"), "clean"),
    figure(canvas(ofDifference(job.image, job.clean), "The change, amplified"), "change × 16"),
    figure(canvas(ofImage(job.image), "The attacked picture"), "attacked"),
  ];
  const now = Math.round(100 * job.right[job.right.length - 1]);
  const name = page.parts.classes[job.label];
  const caption = `probability of “${name}” at each step: ${now} % at the last`;
  const plotted = element("figure", { class: "live-curve" }, curve(job.right, job.budget.iterations), element("figcaption", {}, caption));
  at("result").replaceChildren(element("div", { class: "live-ascent" }, ...pictures, plotted));
}

// What fresh purifications, of noise that the attack has not seen, make of the clean, the randomly changed and the attacked picture.
async function judge(job, noise) {
  const images = { clean: job.clean, random: job.random, attacked: job.image };
  const copies = job.kind === "none" ? 1 : job.budget.votes;
  let done = 0;
  const one = async (image, copy) => {
    const { logits } = await page.engine.ask("purify", { image, defence: job.defence, noise: noise(copy) });
    say(`Fresh purifications: ${++done} of ${3 * copies}`, done / (3 * copies));
    if (page.stop) page.engine.clear();
    return softmax(logits);
  };
  const rows = Object.entries(images).map(async ([name, image]) => [
    name,
    await Promise.all(Array.from({ length: copies }, (_, copy) => one(image, copy))),
  ]);
  return Object.fromEntries(await Promise.all(rows));
}

const topOf = (values) => values.indexOf(Math.max(...values));

function summary(runs, label) {
  const mean = runs[0].map((_, k) => runs.reduce((sum, run) => sum + run[k], 0) / runs.length);
  return { vote: topOf(mean), tops: runs.map(topOf), wrong: runs.filter((run) => topOf(run) !== label).length, n: runs.length };
}

function showVerdict(job, votes) {
  const rows = Object.fromEntries(Object.entries(votes).map(([name, runs]) => [name, summary(runs, job.label)]));
  const names = { clean: "clean", random: "changed at random, as much", attacked: "attacked" };
  const body = Object.entries(rows).map(([name, row]) => {
    const chips = row.tops.map((top) => {
      const right = top === job.label;
      const said = page.parts.classes[top];
      return element("span", { class: `live-chip ${right ? "right" : "wrong"}`, title: said, role: "img", "aria-label": said }, right ? "✓" : "✗");
    });
    return element("tr", {}, element("th", { scope: "row" }, names[name]), element("td", {}, ...chips), element("td", {}, page.parts.classes[row.vote]));
  });
  const head = element("tr", {}, ...["picture", job.kind === "none" ? "answer" : "fresh purifications", "vote"].map((text) => element("th", { scope: "col" }, text)));
  const table = element("table", { class: "live-votes" }, element("thead", {}, head), element("tbody", {}, ...body));
  const { headline, sentence } = verdict(job, rows);
  const words = element("div", { class: "live-verdict", role: "status", tabindex: "-1" }, element("p", { class: "live-headline" }, headline), element("p", {}, sentence));
  at("result").prepend(words);
  at("result").append(table);
  addToTally(job, rows);
  words.focus();
}

// A line about this attack in the list of all, the latest first.
function addToTally(job, { clean, attacked }) {
  const fooled = clean.vote === job.label && attacked.vote !== job.label;
  const name = page.parts.classes[job.label];
  const said = `${fooled ? "fooled" : clean.vote === job.label ? "held" : "wrong before"}: ${page.parts.classes[attacked.vote]}`;
  const cells = [canvas(ofImage(job.image), name), DEFENCES[job.kind].subject, `${attacked.wrong} of ${attacked.n}`, said];
  at("tally").querySelector("tbody").prepend(element("tr", {}, ...cells.map((cell) => element("td", {}, cell))));
  at("tally").hidden = false;
}

function verdict(job, { clean, random, attacked }) {
  const subject = DEFENCES[job.kind].subject;
  const name = (k) => `“${page.parts.classes[k]}”`;
  const steps = `${job.done} step${job.done === 1 ? "" : "s"}`;
  const most = Math.round(255 * job.image.reduce((top, value, i) => Math.max(top, Math.abs(value - job.clean[i])), 0));
  const change = `No pixel changed by more than ${most} of 255 levels.`;
  const several = attacked.n > 1;
  const counted = (row) => `${row.wrong} of ${row.n}`;
  const null_ = several
    ? `${counted(attacked)} fresh purifications of the attacked picture are wrong. After a random change of the same size ${counted(random)} are, of the clean picture ${counted(clean)}.`
    : `A random change of the same size ${random.wrong ? "fools it too" : "leaves it right"}.`;
  if (clean.vote !== job.label) {
    return {
      headline: `${subject} was wrong before any attack.`,
      sentence: `It takes the clean picture for ${name(clean.vote)}. Choose another picture, or say that this is what it shows.`,
    };
  }
  if (attacked.vote !== job.label) {
    return {
      headline: `${subject} is fooled: it now says ${name(attacked.vote)}.`,
      sentence: `${steps} along the exact gradient were enough. ${change} ${null_}`,
    };
  }
  return {
    headline: `${subject} held this time: it still says ${name(attacked.vote)}.`,
    sentence: `${change} ${null_} That is one picture and ${steps}: give the attack more steps, or more purifications for each of them.`,
  };
}
