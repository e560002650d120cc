"use strict";
(() => {
  const rows = JSON.parse(document.getElementById("curves").textContent);
  const boxes = new Map();
  for (const box of document.querySelectorAll("input[data-curve]")) boxes.set(Number(box.dataset.curve), box);

  // ---------------------------------------------------------------- sorting

  // Numbers by size, text by letter; what is empty comes last either way.
  const compare = (a, b, way) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const x = Number(a), y = Number(b);
    const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
    return way * order;
  };
  for (const table of document.querySelectorAll("table")) {
    const headings = [...table.querySelectorAll("thead th")];
    headings.forEach((heading, index) => {
      heading.querySelector("button").addEventListener("click", () => {
        const way = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        for (const each of headings) each.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
        const body = table.tBodies[0];
        const key = (row) => row.cells[index + 1].dataset.sort;
        const sorted = [...body.rows].sort((a, b) => compare(key(a), key(b), way));
        body.append(...sorted);
      });
    });
  }

  // ---------------------------------------------------------------- curves

  const svg = document.getElementById("plot");
  if (!svg) return;
  const what = document.getElementById("what"), log = document.getElementById("log");
  const tip = document.getElementById("tip");
  const colour = (index) => `hsl(${Math.round(index * 137.508 + 210) % 360} 65% var(--light))`;
  const make = (name, attributes, parent = svg) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    parent.append(node);
    return node;
  };
  const short = (value) =>
    value !== 0 && (Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3)
      ? value.toExponential(2) : String(Number(value.toPrecision(4)));

  const names = new Set(rows.flatMap((row) => row.runs.flatMap((run) => Object.keys(run.val))));
  const choices = [["loss", "train and val loss", ["train", "val/loss"]],
    ["train", "train/loss", ["train"]],
    ...[...names].sort().map((name) => [name, name, [name]])];
  for (const [value, text] of choices) what.append(new Option(text, value));

  const lines = () => {
    const wanted = choices.find(([value]) => value === what.value)[2];
    const found = [];
    rows.forEach((row, index) => {
      if (!boxes.get(index).checked) return;
      for (const run of row.runs) {
        for (const name of wanted) {
          const points = name === "train" ? run.train : run.val[name];
          if (!points || !points.length) continue;
          found.push({ index, row, run, name: name === "train" ? "train/loss" : name, xs: points[0], ys: points[1],
            kind: name === "train" ? "train" : "val" });
        }
      }
    });
    return found;
  };

  // Round numbers, about as many as wanted, between two.
  const ticks = (low, high, wanted) => {
    if (!(high > low)) return [low];
    const rough = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
    const found = [];
    for (let each = Math.ceil(low / step); each * step <= high; each += 1) found.push(each * step);
    return found;
  };

  let drawn = [], place = null;
  const draw = () => {
    svg.replaceChildren();
    svg.classList.remove("pointing");
    tip.hidden = true;
    const width = svg.clientWidth || 900, height = svg.clientHeight || 400;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const left = 64, right = 12, top = 10, bottom = 30;
    drawn = lines();
    const scale = log.checked ? Math.log10 : (value) => value;
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const line of drawn) {
      for (const x of line.xs) { x0 = Math.min(x0, x); x1 = Math.max(x1, x); }
      for (const y of line.ys) {
        if (log.checked && !(y > 0)) continue;
        y0 = Math.min(y0, scale(y)); y1 = Math.max(y1, scale(y));
      }
    }
    rows.forEach((row, index) => {
      const box = boxes.get(index);
      box.nextElementSibling.style.background = box.checked ? colour(index) : "";
    });
    if (x0 > x1 || y0 > y1) {
      make("text", { x: left, y: top + 20 }).textContent = "nothing to draw: choose runs in the table";
      place = null;
      return;
    }
    const px = (x) => left + (x1 > x0 ? (x - x0) / (x1 - x0) : 0.5) * (width - left - right);
    const py = (y) => height - bottom - (y1 > y0 ? (scale(y) - y0) / (y1 - y0) : 0.5) * (height - top - bottom);
    place = { px, py };
    for (const each of ticks(y0, y1, 6)) {
      const value = log.checked ? 10 ** each : each, y = py(value);
      make("line", { class: "grid", x1: left, x2: width - right, y1: y, y2: y });
      make("text", { x: left - 6, y: y + 4, "text-anchor": "end" }).textContent = short(value);
    }
    for (const x of ticks(x0, x1, 8)) {
      make("text", { x: px(x), y: height - 10, "text-anchor": "middle" }).textContent = x.toLocaleString("en");
    }
    for (const line of drawn) {
      let path = "", pen = "M";
      line.xs.forEach((x, number) => {
        const y = line.ys[number];
        if (log.checked && !(y > 0)) { pen = "M"; return; }
        path += `${pen}${px(x).toFixed(1)} ${py(y).toFixed(1)}`;
        pen = "L";
      });
      line.path = make("path", { class: line.kind, d: path, "data-curve": line.index });
      line.path.style.stroke = colour(line.index);
    }
  };

  const point = (index) => {
    svg.classList.toggle("pointing", index !== null);
    for (const line of drawn) line.path.classList.toggle("at", line.index === index);
    for (const [number, box] of boxes) box.closest("tr").classList.toggle("at", number === index);
  };
  svg.addEventListener("pointermove", (event) => {
    const area = svg.getBoundingClientRect();
    const x = event.clientX - area.left, y = event.clientY - area.top;
    let best = null, least = 40 * 40;
    if (place) {
      for (const line of drawn) {
        line.xs.forEach((step, number) => {
          const value = line.ys[number];
          const away = (place.px(step) - x) ** 2 + (place.py(value) - y) ** 2;
          if (away < least) { least = away; best = { line, step, value }; }
        });
      }
    }
    point(best ? best.line.index : null);
    tip.hidden = !best;
    if (!best) return;
    const seed = best.line.run.seed ? `, seed ${best.line.run.seed}` : "";
    const damaged = best.line.run.damaged ? ` (${best.line.run.damaged} damaged lines left out)` : "";
    tip.textContent = `${best.line.row.label}${seed}: step ${best.step.toLocaleString("en")}, ` +
      `${best.line.name} ${short(best.value)}${damaged}`;
    tip.style.left = `${Math.max(0, Math.min(x + 14, area.width - tip.offsetWidth))}px`;
    tip.style.top = `${Math.max(0, y - tip.offsetHeight - 10)}px`;
  });
  svg.addEventListener("pointerleave", () => { point(null); tip.hidden = true; });

  const choose = (wanted) => {
    const some = rows.some((row) => row.ranked);
    let left = wanted === "best" ? 8 : Infinity;
    rows.forEach((row, index) => {
      const on = wanted !== "none" && left > 0 && (wanted === "all" || !some || row.ranked);
      boxes.get(index).checked = on;
      left -= on;
    });
    draw();
  };
  for (const button of document.querySelectorAll("button[data-show]")) {
    button.addEventListener("click", () => choose(button.dataset.show));
  }
  for (const box of boxes.values()) box.addEventListener("change", draw);
  what.addEventListener("change", draw);
  log.addEventListener("change", draw);
  new ResizeObserver(draw).observe(svg);
  choose("best");
})();
