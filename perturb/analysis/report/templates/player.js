"use strict";
/* Charts: one Vega view per .chart. Player: two canvases drawn in one animation frame, so that they stay in step. */

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const views = [];

async function draw(specs) {
  for (const place of document.querySelectorAll(".chart")) {
    const spec = specs[Number(place.dataset.spec)];
    const made = await vegaEmbed(place, spec, { actions: false, renderer: "svg" });
    if ((spec.params || []).some((parameter) => parameter.name === "shown")) views.push(made.view);
  }
  document.body.dataset.charts = "drawn";
}

function play(data) {
  const at = { pair: 0, clip: 0, step: Math.floor(data.pairs[0].steps.length / 2), playing: !matchMedia("(prefers-reduced-motion: reduce)").matches };
  const get = (id) => document.getElementById(id);
  const [pair, clip, step, button] = ["pair", "clip", "step", "play"].map(get);
  const figures = ["first", "second"].map(get);
  const images = new Map();
  let started = performance.now();
  let drawn = "";

  const element = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });
  const options = (select, texts) => select.replaceChildren(...texts.map((text, i) => Object.assign(element("option", text), { value: i })));
  const number = (value) => (value === null ? "–" : Number(value.toPrecision(3)).toString().replace("-", "−"));
  const stepOf = (side) => (side.only === null ? at.step : side.only);

  function sprite(side) {
    const source = side.sprites[at.clip];
    if (!images.has(source)) {
      const image = new Image();
      image.onload = () => { drawn = ""; };
      image.src = "data:image/webp;base64," + source;
      images.set(source, image);
    }
    return images.get(source);
  }

  function frame(now) {
    const sides = data.pairs[at.pair].sides;
    const elapsed = at.playing ? (now - started) / 1000 : at.paused;
    const number = Math.floor(elapsed * data.fps);
    const state = [at.pair, at.clip, at.step, number].join();
    if (state !== drawn) {
      const ready = sides.map((side, i) => paint(figures[i].querySelector("canvas"), side, number % side.frames));
      if (ready.every(Boolean)) drawn = state;
    }
    requestAnimationFrame(frame);
  }

  function paint(canvas, side, t) {
    const image = sprite(side);
    if (!image.complete || !image.naturalWidth) return false;
    const w = image.naturalWidth / side.frames;
    const h = image.naturalHeight / data.pairs[at.pair].steps.length;
    if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
    canvas.classList.toggle("small-frames", w <= 128);
    canvas.dataset.frame = t;
    canvas.getContext("2d").drawImage(image, t * w, stepOf(side) * h, w, h, 0, 0, w, h);
    return true;
  }

  function show() {
    const { sides, clips, steps, names, magnitudes } = data.pairs[at.pair];
    pair.value = at.pair;
    clip.value = at.clip;
    step.value = at.step;
    const dose = magnitudes[at.step];
    get("step-name").textContent = names[at.step] + (dose === null ? "" : ` (‖Δ‖/‖θ‖ ${(100 * dose).toPrecision(2)} %)`);
    step.setAttribute("aria-valuetext", `${data.unit} ${names[at.step]}`);
    sides.forEach((side, i) => {
      const caption = figures[i].querySelector("figcaption");
      caption.style.borderColor = side.colour;
      caption.replaceChildren(...symbol(side.label), ` ${side.words}`);
      figures[i].querySelector("canvas").setAttribute("aria-label", `${side.label}: ${data.prompts[clips[at.clip][0]]}`);
    });
    const [head, body] = ["thead", "tbody"].map((tag) => document.querySelector(`.readings ${tag}`));
    head.replaceChildren(row("th", [[""], ...sides.map((side) => symbol(side.label))]));
    body.replaceChildren(...data.measures.map(({ name, label }) =>
      row("td", [[label], ...sides.map((side) => [number(side.scores[name][at.clip][stepOf(side)])])])));
    trace(sides);
    for (const view of views) view.signal("shown", steps[at.step]).runAsync();
  }

  /* M_F' as it is printed: an italic M, its letter below, its primes above. */
  function symbol(label) {
    const parts = /^M_([FPI])('*)$/.exec(label);
    return parts ? [element("i", "M"), element("sub", parts[1]), "′".repeat(parts[2].length)] : [element("b", label)];
  }

  function row(tag, cells) {
    const line = document.createElement("tr");
    line.append(...cells.map((content) => {
      const cell = document.createElement(tag);
      cell.append(...content);
      return cell;
    }));
    return line;
  }

  /* Motion quality of this prompt along the steps, both sides, a rule where the player stands. */
  function trace(sides) {
    const svg = get("trace");
    const [W, H, left, bottom] = [svg.clientWidth || 300, 120, 30, 18];
    const { steps } = data.pairs[at.pair];
    const last = steps[steps.length - 1] || 1;
    const x = (k) => left + (W - left - 6) * (steps[k] / last);
    const lines = sides.filter((side) => side.only === null).map((side) => [side.colour, (side.scores[data.primary] || [])[at.clip] || []]);
    const top = Math.max(0.1, ...lines.flatMap(([, values]) => values));
    const y = (value) => 6 + (H - bottom - 6) * (1 - value / top);
    const node = (tag, attributes, text) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
      Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
      made.textContent = text || "";
      return made;
    };
    svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
    const grey = { fill: "#5d656e", "font-size": 11 };
    svg.replaceChildren(
      node("line", { x1: left, x2: W, y1: y(0), y2: y(0), stroke: "#b9bfc6" }),
      node("line", { x1: x(at.step), x2: x(at.step), y1: 4, y2: y(0), stroke: "#5d656e", "stroke-dasharray": "3 3" }),
      node("text", { ...grey, x: 0, y: y(top) + 8 }, top.toFixed(2)),
      node("text", { ...grey, x: 0, y: y(0) }, "0"),
      node("text", { ...grey, x: left, y: H - 4 }, `motion quality of this prompt, by ${data.unit}`),
      ...lines.map(([colour, values]) => node("polyline", { fill: "none", stroke: colour, "stroke-width": 2,
        points: values.map((value, k) => (value === null ? "" : `${x(k)},${y(value)}`)).join(" ") })),
      ...lines.filter(([, values]) => typeof values[at.step] === "number")
        .map(([colour, values]) => node("circle", { cx: x(at.step), cy: y(values[at.step]), r: 3.5, fill: colour })),
    );
  }

  function move(name, by) {
    const sizes = { step: data.pairs[at.pair].steps.length, clip: data.pairs[at.pair].clips.length };
    at[name] = Math.min(Math.max(at[name] + by, 0), sizes[name] - 1);
    show();
  }

  function toggle() {
    const now = performance.now();
    if (at.playing) at.paused = (now - started) / 1000;
    else started = now - 1000 * at.paused;
    at.playing = !at.playing;
    button.textContent = at.playing ? "Pause" : "Play";
  }

  function choosePair() {
    const name = data.pairs[at.pair].clips[at.clip];
    at.pair = Number(pair.value);
    const { clips, steps } = data.pairs[at.pair];
    step.max = steps.length - 1;
    at.step = Math.min(at.step, steps.length - 1);
    get("steps").replaceChildren(...steps.map((_, k) => Object.assign(document.createElement("option"), { value: k })));
    const same = name ? clips.findIndex(([prompt, seed]) => prompt === name[0] && seed === name[1]) : 0;
    at.clip = Math.max(same, 0);
    const seeds = new Set(clips.map(([, seed]) => seed)).size;
    options(clip, clips.map(([prompt, seed]) => data.prompts[prompt] + (seeds > 1 ? ` (noise ${seed})` : "")));
    show();
  }

  at.paused = 0;
  button.textContent = at.playing ? "Pause" : "Play";
  options(pair, data.pairs.map(({ title }) => title));
  get("pair-label").hidden = data.pairs.length < 2;
  pair.onchange = choosePair;
  clip.onchange = () => { at.clip = Number(clip.value); show(); };
  step.oninput = () => { at.step = Number(step.value); show(); };
  button.onclick = toggle;
  get("player").onkeydown = (event) => {
    const keys = { ArrowLeft: () => move("step", -1), ArrowRight: () => move("step", 1),
      ArrowUp: () => move("clip", -1), ArrowDown: () => move("clip", 1), " ": toggle };
    const own = event.target.tagName === "SELECT" || (event.key === " " && event.target === button);
    if (own || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  };
  choosePair();
  requestAnimationFrame(frame);
}

const clips = read("clips");
if (clips.pairs.length) play(clips);
draw(read("specs"));
