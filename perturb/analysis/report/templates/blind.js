"use strict";
/* A blind test: pairs in an order and on sides drawn from the rater's name; votes in localStorage and, at the end, csv. */

const content = JSON.parse(document.getElementById("content").textContent);
const get = (id) => document.getElementById(id);
const COLUMNS = ["study", "rater", "pair", "left", "right", "choice", "time", "seconds"];
const PAUSE = 0.6; // seconds of grey between two rounds, so that the jump back to the first frame is no flash
const SHELF = `perturb-blind/${content.study}/`;
const buttons = [...document.querySelectorAll(".answers button")];
const canvases = ["left", "right"].map(get);
let rater = "";
let trials = [];
let votes = [];
let at = 0;
let images = [];
let shown = 0; // when the pair was first seen, and when its clips were last started
let started = 0;
let paused = null;
let seen = false;

/* Random numbers from a text: FNV-1a, then mulberry32. */
function numbers(text) {
  let state = 2166136261;
  for (const letter of text) state = Math.imul(state ^ letter.codePointAt(0), 16777619);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffled(list, random) {
  const all = [...list];
  for (let i = all.length - 1; i > 0; i -= 1) {
    const j = Math.floor(random() * (i + 1));
    [all[i], all[j]] = [all[j], all[i]];
  }
  return all;
}

/* Pairs in this rater's order; in half of them the sides are exchanged. */
function order(name) {
  const random = numbers(`${content.study}/${name}`);
  const exchanged = shuffled(content.pairs.map((_, i) => i % 2 === 1), random);
  const pairs = content.pairs.map(({ id, clips }, i) => ({ id, sides: exchanged[i] ? [clips[1], clips[0]] : clips }));
  return shuffled(pairs, random);
}

function read(name) {
  try { return JSON.parse(localStorage.getItem(SHELF + name)) || []; } catch { return []; }
}

function keep() {
  try { localStorage.setItem(SHELF + rater, JSON.stringify(votes)); } catch {
    get("trouble").hidden = false;
    get("trouble").textContent = "This browser keeps nothing: save your votes before you close the page.";
  }
}

function only(name) {
  for (const id of ["start", "vote", "end"]) get(id).hidden = id !== name;
}

const voted = (trial) => votes.find(({ pair }) => pair === trial.id);
const next = () => trials.findIndex((trial) => !voted(trial));

async function show(place) {
  at = place;
  const trial = trials[at];
  images = [];
  seen = false;
  paused = null;
  only("vote");
  document.activeElement.blur(); // or the space bar would press the last answer again
  canvases.forEach((canvas) => paint(canvas, null, 1, 0, true));
  const count = trials.filter(voted).length;
  Object.assign(get("bar"), { max: trials.length, value: count });
  get("count").textContent = `${at + 1} of ${trials.length}`;
  get("back").disabled = at === 0;
  get("pause").textContent = "Pause";
  ready();
  const loaded = await Promise.all(trial.sides.map(async ({ sprite }) => {
    const image = new Image();
    image.src = "data:image/webp;base64," + sprite;
    await image.decode();
    return image;
  }));
  if (trials[at] !== trial) return;
  loaded.forEach((image, i) => {
    const [w, h] = [image.naturalWidth / trial.sides[i].frames, image.naturalHeight];
    Object.assign(canvases[i], { width: w, height: h });
    canvases[i].classList.toggle("small-frames", w <= 128);
  });
  images = loaded;
  shown = started = performance.now();
}

/* Answers are open once both clips ran to the end. */
function ready() {
  for (const button of buttons) button.disabled = !seen;
  const before = voted(trials[at]);
  const words = { left: "left", right: "right", tie: "no difference" };
  const earlier = before ? `Your answer was: ${words[before.choice]}. ` : "";
  get("hint").textContent = earlier + (seen ? "" : "Watch both clips to the end.");
}

function frame(now) {
  if (images.length && !get("vote").hidden) {
    const { sides } = trials[at];
    const length = Math.max(...sides.map(({ frames }) => frames)) / content.fps;
    const elapsed = ((paused === null ? now : paused) - started) / 1000;
    if (elapsed >= length && !seen) {
      seen = true;
      ready();
    }
    const within = Math.max(elapsed, 0) % (length + PAUSE);
    images.forEach((image, i) => paint(canvases[i], image, sides[i].frames, Math.floor(within * content.fps), within >= length));
  }
  requestAnimationFrame(frame);
}

/* Frame t of a sprite, or, as between two rounds and before a clip is there, grey. */
function paint(canvas, image, frames, t, grey) {
  const number = grey ? "pause" : String(Math.min(t, frames - 1));
  const state = `${at}/${number}`;
  if (canvas.dataset.state === state) return;
  canvas.dataset.state = state;
  canvas.dataset.frame = number;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#808080";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  if (!grey) pen.drawImage(image, number * canvas.width, 0, canvas.width, canvas.height, 0, 0, canvas.width, canvas.height);
}

function choose(choice) {
  if (!seen) return;
  const trial = trials[at];
  const [left, right] = trial.sides.map(({ id }) => id);
  const seconds = ((performance.now() - shown) / 1000).toFixed(2);
  const vote = { study: content.study, rater, pair: trial.id, left, right, choice, time: new Date().toISOString(), seconds };
  votes = [...votes.filter(({ pair }) => pair !== trial.id), vote];
  keep();
  go();
}

function go() {
  const open = next();
  if (open === -1) finish();
  else show(open);
}

function finish() {
  const left = trials.filter((trial) => !voted(trial)).length;
  only("end");
  get("thanks").textContent = left ? `${votes.length} of ${trials.length} pairs so far` : "Done. Thank you!";
  get("said").textContent = "Save your votes as a file and send it to whoever asked you."
    + (left ? " They stay in this browser too, under the same name." : "");
  get("save").disabled = !votes.length;
}

function csv() {
  const cell = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  return [COLUMNS, ...votes.map((vote) => COLUMNS.map((column) => cell(String(vote[column]))))].map((row) => row.join(",") + "\n").join("");
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = `votes_${content.study}_${rater}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function toggle() {
  const now = performance.now();
  if (paused === null) paused = now;
  else {
    started += now - paused;
    paused = null;
  }
  get("pause").textContent = paused === null ? "Pause" : "Play";
}

function known() {
  const name = get("rater").value.trim();
  const count = name ? read(name).length : 0;
  get("known").textContent = count ? `${name} has voted on ${count} of ${content.pairs.length} pairs here; you go on from there.` : "";
}

function begin(name) {
  rater = name;
  trials = order(rater);
  votes = read(rater);
  try { localStorage.setItem(`${SHELF}`, rater); } catch { /* said when a vote is kept */ }
  go();
}

get("who").onsubmit = (event) => {
  event.preventDefault();
  begin(get("rater").value.trim());
};
get("rater").oninput = known;
get("back").onclick = () => at > 0 && show(at - 1);
get("pause").onclick = toggle;
get("stop").onclick = finish;
get("save").onclick = save;
get("again").onclick = () => show(Math.max(next(), 0));
get("other").onclick = () => {
  get("rater").value = "";
  known();
  only("start");
};
for (const button of buttons) button.onclick = () => choose(button.dataset.choice);
document.onkeydown = (event) => {
  if (get("vote").hidden || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const offered = (choice) => buttons.some((button) => button.dataset.choice === choice);
  const keys = { ArrowLeft: () => choose("left"), ArrowRight: () => choose("right"),
    ArrowDown: () => offered("tie") && choose("tie"), Backspace: () => get("back").click(), " ": toggle };
  if (!keys[event.key] || (event.key === " " && event.target.tagName === "BUTTON")) return;
  event.preventDefault();
  keys[event.key]();
};
try { get("rater").value = localStorage.getItem(SHELF) || ""; } catch { /* nothing is kept */ }
known();
requestAnimationFrame(frame);
