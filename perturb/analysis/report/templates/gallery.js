"use strict";
/* Sorting by a heading: up, then down; what has no value comes last. The clips are moved by the style alone. */

const [head, body] = [document.querySelector("thead"), document.querySelector("tbody")];

function compare(a, b) {
  const [x, y] = [Number(a), Number(b)];
  return isNaN(x) || isNaN(y) ? a.localeCompare(b) : x - y;
}

head.querySelectorAll("button").forEach((button, column) => button.addEventListener("click", () => {
  const heading = button.parentElement;
  const down = heading.getAttribute("aria-sort") === "ascending";
  head.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const order = (row) => row.cells[column].dataset.order;
  const known = (row) => order(row) !== undefined;
  const rows = [...body.rows];
  const sorted = rows.filter(known).sort((a, b) => (down ? -1 : 1) * compare(order(a), order(b)));
  body.append(...sorted, ...rows.filter((row) => !known(row)));
}));

const play = document.getElementById("play");
function pause(paused) {
  document.body.classList.toggle("paused", paused);
  play.textContent = paused ? "Play" : "Pause";
}
play.addEventListener("click", () => pause(!document.body.classList.contains("paused")));
pause(matchMedia("(prefers-reduced-motion: reduce)").matches);
