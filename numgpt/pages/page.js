"use strict";
/* The script of a page that explains a text. In reading order:

     numbers     what gather.py packed is unpacked; a number keeps the digits that it has
     choosing    what is chosen (token, layer, head, station, target), and who follows it
     pictures    SVG from a few helpers; each can be saved, and has a table behind it
     parts       the seven parts of the page, from the top down

   It asks nobody for anything and keeps nothing. */

const data = JSON.parse(document.getElementById("data").textContent);
const { ids, config, packing } = data;
const T = ids.length, L = config.n_layer, H = config.n_head, V = config.n_vocab;
const last = T - 1;

// ---- numbers

const DIGIT = new Uint8Array(128);
[..."ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"].forEach((c, i) => { DIGIT[c.charCodeAt(0)] = i; });

/** The i-th integer of a text of integers, `width` characters each. */
function unpackInteger(text, i, width = packing.integer) {
  let x = 0;
  for (let at = i * width; at < (i + 1) * width; at++) x = x * 64 + DIGIT[text.charCodeAt(at)];
  return x;
}

/** The i-th number, with the digits that it has: {value, text}. */
function unpackDecimal(text, i, [width, low], signed) {
  let code = unpackInteger(text, i, width);
  const sign = signed ? 2 ** (6 * width - 1) : Infinity;
  const minus = code >= sign ? "-" : "";
  if (minus) code -= sign;
  const k = Math.max(0, Math.floor((code - 100) / 900)), m = code - 900 * k;
  const value = Number(`${minus}${m}e${k + low}`);
  return { value, text: m ? value.toPrecision(String(m).length).replace("e+", "e") : "0" };
}

const unpackNumber = (text, i) => unpackDecimal(text, i, packing.number, true);
const unpackScaled = (x, i, width) => x.low + x.step * unpackInteger(x.text, i, width);

/** The integers of a text of integers of which most are small. */
function unpackSteps(text) {
  const found = [];
  for (let at = 0; at < text.length; at++) {
    const first = DIGIT[text.charCodeAt(at)];
    if (first < 48) found.push(first);
    else if (first < 63) found.push(48 + 64 * (first - 48) + DIGIT[text.charCodeAt(++at)]);
    else { found.push(unpackInteger(text.slice(at + 1, at + 4), 0, 3)); at += 3; }
  }
  return found;
}

/** What a page shows of a vector: its first numbers, each with its index in the tensor. */
function numbersOf(name, t, h) {
  if (name === "logits") {
    return candidatesAt(t).slice(0, 6).map(({ id, logit }) => ({ index: [t, id], value: logit, text: logit.toFixed(2) }));
  }
  const ofHead = /attn\.[qkvz]$/.test(name);
  const n = Math.min(ofHead ? data.numbers.of_a_head : data.numbers.features, widthOf(name));
  const row = ofHead ? h * T + t : t;
  return Array.from({ length: n }, (_, i) => ({
    index: ofHead ? [h, t, i] : name === "wte" ? [ids[t], i] : [t, i],
    ...unpackNumber(data.numbers.tensors[name], row * n + i),
  }));
}

/** How many numbers a vector has, and its shape as the page writes it. */
function widthOf(name) {
  if (/attn\.[qkvz]$/.test(name)) return config.D;
  if (/mlp\.(pre|post)$/.test(name)) return config.F;
  return name === "logits" ? V : config.n_embd;
}

/** What a token pays attention to, from the first: {s, value, text}; of a long text the largest weights alone. */
function weightsOf(layer, head, t) {
  const { kept, weights, places } = data.attention;
  const found = [];
  if (kept === T) {
    const start = head * T * (T + 1) / 2 + t * (t + 1) / 2;
    for (let s = 0; s <= t; s++) found.push({ s, ...unpackDecimal(weights[layer], start + s, packing.weight, false) });
    return found;
  }
  for (let i = (head * T + t) * kept; i < (head * T + t + 1) * kept; i++) {
    const s = unpackInteger(places[layer], i);
    if (s <= t) found.push({ s, ...unpackDecimal(weights[layer], i, packing.weight, false) });
  }
  return found;
}

/** The picture of a head in few cells: call back with row, column and weight, 0 to 1. */
function cellsOf(layer, head, call) {
  const { side, cells } = data.attention;
  let i = head * side * (side + 1) / 2;
  for (let row = 0; row < side; row++) for (let column = 0; column <= row; column++) call(row, column, unpackInteger(cells[layer], i++, 1) / 63);
}

/** The candidates of a position, the likeliest first. */
function candidatesAt(t) {
  const { n, logits } = data.next;
  return Array.from({ length: n }, (_, i) => ({
    id: unpackInteger(data.next.ids, t * n + i),
    logit: unpackScaled(logits, t * n + i, packing.logit),
  }));
}

/** The tokens below the candidates, the likeliest first, in bins: how many, and from which logit down to which. */
function tailAt(t) {
  const steps = unpackSteps(data.next.steps[t]), counts = unpackSteps(data.next.counts);
  let low = candidatesAt(t).at(-1).logit;
  return counts.map((count, i) => {
    const high = low;
    low -= Math.sqrt(count) * data.next.step[t] * steps[i];
    return { count, high, low };
  });
}

const MARKS = { " ": "␣", "\n": "⏎", "\t": "⇥" };
const escaped = (text) => text.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g,
  (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
/** How a token is written: its text with spaces to be seen; its id where there is no tokenizer. */
const marked = (text) => escaped(text).replace(/[ \n\t]/g, (c) => MARKS[c]);
const nameOf = (id) => (id in data.texts ? marked(data.texts[id]) : `id ${id}`);
const short = (text, n) => ([...text].length > n ? `${[...text].slice(0, n - 1).join("")}…` : text);
const three = (x) => (x === 0 ? "0" : Math.abs(x) >= 1000 ? x.toFixed(0) : x.toPrecision(3).replace("e+", "e"));
const percent = (x) => `${(100 * x).toFixed(0)} %`;

// ---- choosing

const chosen = { token: last, ...mostTelling(), station: "embed", target: 0, colour: "rank", controls: null };
const followers = [];

/** The head to begin with: the one that looks the most at a place which depends on the token. */
function mostTelling() {
  const told = data.attention.heads.flatMap((row, layer) => row.map(({ previous, copy, induction }, head) => ({ layer, head, share: Math.max(previous, copy, induction) })));
  const { layer, head } = told.reduce((best, one) => (one.share > best.share ? one : best));
  return { layer, head };
}

/** Draw now, and again whenever one of these changes. */
function follow(keys, draw) {
  followers.push({ keys, draw });
}

function choose(change) {
  Object.assign(chosen, change);
  for (const { keys, draw } of followers) if (keys.some((key) => key in change)) draw();
}

// ---- elements and pictures

const byId = (id) => document.getElementById(id);

/** An element: attributes by name, "on…" for events, the rest its children. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const words = (x, y, text, attributes = {}) => svg("text", { x, y, "font-size": 11, ...attributes }, text);
const isolated = (text) => element("bdi", {}, text);

/** A number of a tensor, which says which one it is. Parameters are no tensors of the trace, and say so. */
function numberElement(tag, name, { index, text }) {
  const kind = name === "wte" || name === "wpe" ? "data-parameter" : "data-tensor";
  return (tag === "tspan" || tag === "text" ? svg : element)(tag, { [kind]: name, "data-index": index.join(",") }, text);
}

/** Put a picture into its figure: what it shows in words, its size, its elements, and the table behind it. */
function picture(name, { label, width, height, children, table }) {
  const figure = document.querySelector(`[data-picture="${name}"]`);
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, width, height }, ...children);
  drawn.style.maxWidth = `${width * 1.4}px`;
  const wide = width > 430; // on a phone it is not made small, but moved in a frame of its own
  if (wide) drawn.style.minWidth = `${Math.min(width, 900)}px`;
  const old = figure.querySelector("svg");
  if (old) {
    old.replaceWith(drawn);
  } else {
    const behind = element("details", { ontoggle: () => fill(figure) }, element("summary", {}, "as a table"),
      element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `The numbers of the picture ${name}` }));
    const save = element("button", { type: "button", onclick: () => savePicture(name) }, `save ${name}.svg`);
    const frame = element("div", { class: "frame", tabindex: 0, role: "group", "aria-label": `Picture: ${name}` }, drawn);
    figure.prepend(frame, element("div", { class: "tools" }, save, behind));
  }
  figure.table = table;
  fill(figure);
  return drawn;
}

/** Write the table behind a picture, if it is open: many are large, and few are read. */
function fill(figure) {
  const behind = figure.querySelector("details");
  if (behind.open) behind.querySelector("div").replaceChildren(tableElement(figure.table()));
}

function tableElement({ caption, head, rows }) {
  const cell = (tag, x, scope) => {
    const made = element(tag, { scope, class: typeof x === "number" ? "number" : null });
    made.append(typeof x === "number" ? String(x) : x);
    return made;
  };
  return element("table", {}, element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...head.map((x) => cell("th", x, "col")))),
    element("tbody", {}, ...rows.map(([first, ...rest]) => element("tr", {}, cell("th", first, "row"), ...rest.map((x) => cell("td", x))))));
}

const MARGIN = 8;

/** A picture as a file of its own, with a margin: the style that it has on the page is written into each element, but
    that of most words into the first. */
function pictureAsSvg(name) {
  const drawn = document.querySelector(`[data-picture="${name}"] svg`), copy = drawn.cloneNode(true);
  const originals = [...drawn.querySelectorAll("*")], copies = [...copy.querySelectorAll("*")];
  const write = (one, style, properties) => properties.forEach((property) => one.setAttribute(property, style.getPropertyValue(property)));
  const common = getComputedStyle(drawn.querySelector("text")), ofWords = ["fill", "font-family"];
  for (const attribute of ["class", "style", "data-hit"]) [copy, ...copies].forEach((one) => one.removeAttribute(attribute));
  originals.forEach((original, i) => {
    const style = getComputedStyle(original), { tagName } = original;
    if (tagName === "g") return;
    if (tagName === "text" || tagName === "tspan") write(copies[i], style, ofWords.filter((property) => style[property] !== common[property]));
    else write(copies[i], style, ["fill", ...(style.fillOpacity === "1" ? [] : ["fill-opacity"]), ...(style.stroke === "none" ? [] : ["stroke", "stroke-width"])]);
  });
  write(copy, common, ofWords);
  const { width, height } = drawn.viewBox.baseVal, size = { width: round2(width + 2 * MARGIN), height: round2(height + 2 * MARGIN) };
  const place = { ...size, x: -MARGIN, y: -MARGIN };
  for (const [attribute, value] of Object.entries({ ...size, viewBox: `${-MARGIN} ${-MARGIN} ${size.width} ${size.height}` })) copy.setAttribute(attribute, value);
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.prepend(svg("rect", { ...place, fill: getComputedStyle(document.documentElement).backgroundColor }));
  return new XMLSerializer().serializeToString(copy);
}

function savePicture(name) {
  const url = URL.createObjectURL(new Blob([pictureAsSvg(name)], { type: "image/svg+xml" }));
  element("a", { href: url, download: `${name}.svg` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

const SHADES = 12;

/** Squares in shades of one colour: a path a shade, of lines as thick as a square is high. Neighbours in a row are one line.
    call(put): put(x, y, how much from 0 to 1, class), from left to right. */
function shaded(size, call, height = size) {
  const paths = new Map();
  call((x, y, amount, kind = "ink") => {
    const shade = Math.round(SHADES * Math.sqrt(Math.min(1, amount)));
    if (!shade) return;
    const key = `${kind} ${shade}`;
    if (!paths.has(key)) paths.set(key, []);
    const lines = paths.get(key), before = lines.at(-1);
    if (before && before.y === y && Math.abs(before.end - x) < 0.02) before.end = round2(x + size);
    else lines.push({ x, y, end: round2(x + size) });
  });
  return [...paths].map(([key, lines]) => {
    const [kind, shade] = key.split(" ");
    let at = { end: 0, y: -height / 2 }; // a line begins where it lies from the end of the one before
    const d = lines.map((line) => {
      const step = `m${round2(line.x - at.end)} ${round2(line.y - at.y)}h${round2(line.end - line.x)}`;
      at = line;
      return step;
    });
    return svg("path", { class: `shaded ${kind}`, "stroke-opacity": (shade / SHADES).toFixed(2), "stroke-width": height, "shape-rendering": "crispEdges", d: d.join("") });
  });
}

/** Where somebody clicked, in the units of the picture. */
function placeOf(event) {
  const drawn = event.currentTarget, box = drawn.getBoundingClientRect(), view = drawn.viewBox.baseVal;
  return [(event.clientX - box.left) / box.width * view.width, (event.clientY - box.top) / box.height * view.height];
}

const round2 = (x) => Math.round(100 * x) / 100;
const between = (x, low, high) => Math.max(low, Math.min(high, x));

/** Every how many tokens one is named below or beside a picture, so that names do not meet. */
const everyNth = (room, wanted) => Math.max(1, Math.ceil(wanted / room));

/** The tokens below a picture that has a column for each: their names, or of a long text some of their places. */
function namesBelow(left, width, bottom) {
  const named = T <= 50, found = [];
  for (let t = 0; t < T; t += everyNth(T * width / (named ? 11 : 26), T)) {
    const x = round2(left + (t + 0.5) * width - (named ? 3 : 0)), y = round2(bottom + (named ? 10 : 12));
    found.push(named ? words(x, y, short(nameOf(ids[t]), 10), { "font-size": 10, transform: `rotate(40 ${x} ${y})` }) : words(x, y, t, { "text-anchor": "middle", "font-size": 9 }));
  }
  return found;
}

// ---- the bar at the top

function option(value, text) {
  return element("option", { value }, text);
}

function bar() {
  byId("about").textContent = `${data.name ? `${escaped(data.name)}: ` : ""}${L} layers, ${H} heads, ${config.n_embd} features, ` +
    `a vocabulary of ${V.toLocaleString("en")} tokens. The text has ${T === 1 ? "1 token" : `${T} tokens`}.`;
  byId("choose-token").append(...ids.map((id, t) => option(t, `${t}: ${short(nameOf(id), 24)}`)));
  byId("choose-layer").append(...Array.from({ length: L }, (_, i) => option(i, i)));
  byId("choose-head").append(...Array.from({ length: H }, (_, i) => option(i, i)));
  for (const key of ["token", "layer", "head"]) {
    const select = byId(`choose-${key}`);
    select.addEventListener("change", () => choose({ [key]: Number(select.value) }));
    follow([key], () => { select.value = chosen[key]; });
  }
  const dark = byId("shade"), root = document.documentElement;
  const isDark = () => (root.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => { dark.textContent = isDark() ? "Light" : "Dark"; };
  dark.addEventListener("click", () => { root.style.colorScheme = isDark() ? "light" : "dark"; name(); });
  name();
  for (const [size, value] of Object.entries({ T, L, H, V, C: config.n_embd, D: config.D, F: config.F })) {
    for (const span of document.querySelectorAll(`[data-size="${size}"]`)) span.textContent = value;
  }
  for (const pre of document.querySelectorAll("[data-code]")) {
    const { file, line, code } = data.code[pre.dataset.code];
    pre.replaceChildren(element("span", { class: "where" }, line ? `${file}, line ${line}\n` : `${file}: the source is not at hand`), code);
    pre.tabIndex = 0;
  }
  document.addEventListener("click", ({ target }) => {
    const token = target.closest("[data-token]"), step = target.closest("[data-step]");
    if (token) choose({ token: Number(token.dataset.token) });
    if (step) choose({ token: between(chosen.token + Number(step.dataset.step.split(" ")[1]), 0, last) });
  });
  document.addEventListener("keydown", (event) => {
    const row = event.target.closest("[data-row]");
    const to = { ArrowRight: chosen.token + 1, ArrowLeft: chosen.token - 1, Home: 0, End: last }[event.key];
    if (!row || to === undefined) return;
    event.preventDefault();
    choose({ token: between(to, 0, last) });
    row.querySelector(`[data-token="${chosen.token}"]`).focus();
  });
}

/** Mark the chosen token in a row of buttons; it alone is reached by Tab, the others by the arrow keys. */
function markIn(row) {
  row.querySelectorAll('[aria-pressed="true"]').forEach((button) => { button.ariaPressed = "false"; button.tabIndex = -1; });
  const button = row.querySelector(`[data-token="${chosen.token}"]`);
  button.ariaPressed = "true";
  button.tabIndex = 0;
}

// ---- 1. text to ids

function tokens() {
  const row = document.querySelector("#tokens [data-row]");
  row.append(...ids.map((id, t) => element("button", { type: "button", "data-token": t, "aria-pressed": "false", tabindex: -1 },
    isolated(id in data.texts ? marked(data.texts[id]) : "·"), element("small", {}, id))));
  follow(["token"], () => markIn(row));
  follow(["token"], () => {
    const id = ids[chosen.token], piece = data.pieces[id];
    byId("one-token").replaceChildren(`Token ${chosen.token}: `, isolated(nameOf(id)));
    byId("bytes").textContent = !piece ? `Its id is ${id}. There is no tokenizer that says what it stands for.`
      : `Its id is ${id}. Its ${piece.bytes.length > 2 ? "bytes are" : "byte is"} ${piece.bytes || "none"}.` +
        (piece.special ? " It is a special token, which stands for itself." : piece.steps.length ? "" : " No pair was merged.");
    const steps = piece ? piece.steps : [];
    const pair = ({ pieces, at }) => [isolated(marked(pieces[at])), " + ", isolated(marked(pieces[at + 1]))];
    byId("merges").replaceChildren(...steps.map((step) => element("li", {}, ...pair(step), `, rank ${step.rank}`)));
    drawMerges(piece, id);
  });
}

function drawMerges(piece, id) {
  const steps = piece ? piece.steps : [];
  const rows = [...steps.map(({ pieces }) => pieces), [nameOf(id)]];
  const n = rows[0].length, unit = between(360 / n, 14, 60), height = 34, children = [];
  rows.forEach((pieces, row) => {
    let x = 4;
    const width = (piece, i) => unit * (row === rows.length - 1 ? n : sizes(rows, steps, row)[i]);
    pieces.forEach((piece, i) => {
      const w = width(piece, i), merged = row < steps.length && (i === steps[row].at || i === steps[row].at + 1);
      children.push(svg("rect", { class: "box", x, y: 4 + row * height, width: w - 3, height: 22, rx: 3 }));
      if (merged) children.push(svg("rect", { class: "mark", x, y: 4 + row * height, width: w - 3, height: 22, rx: 3 }));
      children.push(words(x + (w - 3) / 2, 19 + row * height, short(marked(piece), Math.max(1, Math.floor(w / 7))), { "text-anchor": "middle" }));
      x += w;
    });
    if (row < steps.length) children.push(words(10 + n * unit, 19 + row * height, `rank ${steps[row].rank}`, { class: "quiet" }));
  });
  picture("merges", {
    label: `How the token ${nameOf(id)} is merged from ${n} pieces in ${steps.length} steps`,
    width: 100 + n * unit, height: 4 + rows.length * height, children,
    table: () => ({ caption: "The merges, in order", head: ["step", "left", "right", "rank"],
      rows: steps.map(({ pieces, at, rank }, i) => [String(i + 1), isolated(marked(pieces[at])), isolated(marked(pieces[at + 1])), rank]) }),
  });
}

/** How many of the first row's pieces each piece of a row is made of. */
function sizes(rows, steps, row) {
  let found = rows[0].map(() => 1);
  for (const { at } of steps.slice(0, row)) found = [...found.slice(0, at), found[at] + found[at + 1], ...found.slice(at + 2)];
  return found;
}

// ---- 2. the whole way

const STATIONS = [...document.querySelectorAll("article[data-station]")];

/** The full name of a tensor in the chosen layer: "stream" is what the layer begins with, "last" what the last one ends with. */
function inLayer(name) {
  if (name === "stream") return chosen.layer ? `h.${chosen.layer - 1}.resid_post` : "embed";
  if (name === "last") return `h.${L - 1}.resid_post`;
  return name.replace("*", chosen.layer);
}

function way() {
  byId("stations").append(...STATIONS.map((article) => element("button",
    { type: "button", "aria-pressed": "false", onclick: () => choose({ station: article.dataset.station }) }, article.dataset.station)));
  const activation = { gelu_new: "gelu", gelu_pytorch_tanh: "gelu", gelu: "gelu_erf", swish: "silu" }[config.activation_function] || config.activation_function;
  document.querySelector(`[data-activation="${activation}"]`).classList.add("chosen");
  follow(["station"], () => {
    STATIONS.forEach((article) => article.classList.toggle("chosen", article.dataset.station === chosen.station));
    for (const button of byId("stations").children) button.ariaPressed = String(button.textContent === chosen.station);
  });
  follow(["station", "layer"], drawWay);
  follow(["token", "layer", "head", "station"], drawNumbers);
  drawPositions();
}

/** The cosines of the learned positions: the same for each text. */
function drawPositions() {
  const { places, cosines } = data.positions, n = places.length, size = n > 32 ? 4 : round2(between(256 / n, 4, 24)), left = 34, side = round2(n * size);
  const cosine = (i, j) => { const row = Math.max(i, j); return unpackNumber(cosines, row * (row + 1) / 2 + Math.min(i, j)); };
  const kind = (value) => (value < 0 ? "less" : "more"), key = [1, 0.5, 0.2, 0.05, 0, -0.05, -0.2, -0.5, -1];
  const at = (i, from) => round2(from + i * size), right = left + side + 16;
  const children = [svg("path", { class: "paper", d: `M${left} 4h${side}v${side}h${-side}zM${right} 4h12v${13 * key.length}h-12z` }),
    ...shaded(size, (put) => {
      for (let row = 0; row < n; row++) for (let column = 0; column < n; column++) {
        const { value } = cosine(row, column);
        put(at(column, left), at(row, 4), Math.abs(value), kind(value));
      }
    }),
    ...shaded(12, (put) => key.forEach((value, i) => put(right, 4 + 13 * i, Math.abs(value), kind(value))), 13),
    ...key.map((value, i) => words(right + 17, 14 + 13 * i, value, { "font-size": 9, class: "quiet" }))];
  for (let i = 0; i < n; i += everyNth(side / 40, n)) {
    children.push(words(left - 4, at(i + 0.5, 7), places[i], { "text-anchor": "end", "font-size": 9, class: "quiet" }),
      words(at(i + 0.5, left), side + 15, places[i], { "text-anchor": "middle", "font-size": 9, class: "quiet" }));
  }
  picture("positions", { label: `How alike the vectors of ${n} of the ${config.n_ctx} positions are`, width: right + 50, height: Math.max(side + 20, 13 * key.length + 8), children,
    table: () => ({ caption: "The cosine of the vectors of two positions", head: ["position", ...places.map(String)],
      rows: places.map((place, row) => [String(place), ...places.map((_, column) => cosine(row, column).text)]) }) });
}

function drawWay() {
  const C = `[${T}, ${config.n_embd}]`, heads = `[${H}, ${T}, ${config.D}]`, wide = `[${T}, ${config.F}]`;
  const stream = 46, branch = 120, boxes = [ // station, x, y, its shape
    ["embed", stream - 40, 30, C], ["ln_1", branch, 96, C], ["q, k, v", branch, 130, heads], ["attend", branch, 164, heads], ["attn_out", branch, 198, C],
    ["resid_mid", stream - 40, 232, C], ["ln_2", branch, 266, C], ["mlp.pre", branch, 300, wide], ["mlp.post", branch, 334, wide], ["mlp_out", branch, 368, C],
    ["resid_post", stream - 40, 402, C], ["ln_f", stream - 40, 456, C], ["logits", stream - 40, 490, `[${T}, ${V}]`]];
  const children = [
    svg("rect", { class: "paper", x: 1, y: 72, width: 298, height: 366, rx: 8 }),
    words(150, 88, `layer ${chosen.layer}, one of ${L}`, { class: "quiet" }),
    svg("path", { class: "stream", d: `M${stream} 18V514` }),
    svg("path", { class: "wire", d: `M${stream} 106H${branch}M${branch + 42} 106V208M${branch} 212H106M${stream} 276H${branch}M${branch + 42} 276V378M${branch} 382H106M106 212V242H80M106 382V412H80` }),
    words(stream - 40, 14, `ids [${T}]`), words(stream - 40, 530, "a score for each token that may follow", { class: "quiet" }),
  ];
  for (const [station, x, y, shape] of boxes) {
    const box = svg("g", { class: "hit", "data-hit": station },
      svg("rect", { class: "box", x, y, width: 84, height: 22, rx: 4 }), words(x + 42, y + 15, station, { "text-anchor": "middle" }),
      words(x + (station.startsWith("resid") ? 108 : 92), y + 15, shape, { class: "quiet" }));
    if (station === chosen.station) box.append(svg("rect", { class: "mark", x, y, width: 84, height: 22, rx: 4 }));
    children.push(box);
  }
  const drawn = picture("way", { label: "The way through the model: embed, the layers, ln_f, logits", width: 300, height: 536, children,
    table: () => ({ caption: "The stations, in order", head: ["station", "shape of what comes out"], rows: boxes.map(([station, , , shape]) => [station, shape]) }) });
  drawn.addEventListener("click", ({ target }) => {
    const hit = target.closest("[data-hit]");
    if (hit) choose({ station: hit.dataset.hit });
  });
}

function drawNumbers() {
  const { token: t, head: h, station } = chosen;
  const article = STATIONS.find((one) => one.dataset.station === station);
  const tensors = ["in", "out"].flatMap((way) => article.dataset[way].split(" ").map((name) => ({ way, name: inLayer(name) })));
  const children = [], numbers = tensors.map(({ name }) => numbersOf(name, t, h)), rowHeight = 62;
  const largest = Math.max(...numbers.flat().map(({ value }) => Math.abs(value)), 1e-30);
  tensors.forEach(({ way, name }, row) => {
    const y = 16 + row * rowHeight;
    const ofHead = /attn\.[qkvz]$/.test(name), length = data.numbers.lengths[name];
    const about = `${way === "in" ? "in" : "out"}: ${name}${ofHead ? `, head ${h}` : ""}`;
    children.push(words(0, y, about), words(360, y, `${numbers[row].length} of ${widthOf(name)}` +
      (length ? `, length ${unpackNumber(length, t).text}` : ""), { "text-anchor": "end", class: "quiet" }));
    numbers[row].forEach((number, i) => {
      const size = round2(14 * Math.abs(number.value) / largest), x = i * 60;
      children.push(svg("rect", { class: number.value < 0 ? "less" : "more", x: x + 2, y: round2(y + 20 - (number.value < 0 ? 0 : size)), width: 52, height: size }),
        svg("path", { class: "wire", d: `M${x} ${y + 20}h56` }));
      const shown = numberElement("text", name, number);
      for (const [key, value] of Object.entries({ x: x + 28, y: y + (number.value < 0 ? 16 : 33), "text-anchor": "middle", "font-size": 11 })) shown.setAttribute(key, value);
      children.push(shown);
      if (name === "logits") children.push(words(x + 28, y + 46, short(nameOf(number.index[1]), 8), { "text-anchor": "middle", class: "quiet" }));
    });
  });
  picture("numbers", { label: `The numbers of token ${t}, ${nameOf(ids[t])}, at ${station}`, width: 362, height: tensors.length * rowHeight + 10, children,
    table: () => ({ caption: `Token ${t} at ${station}`, head: ["tensor", "index", "number"],
      rows: tensors.flatMap(({ name }, row) => numbers[row].map((number) => [name, number.index.join(", "), numberElement("span", name, number)])) }) });
}

// ---- 3. attention

const KINDS = {
  previous: "the token before",
  first: "the first token of the text",
  self: "the token itself",
  copy: "an earlier copy of the token",
  induction: "the token that came after an earlier copy (induction: it foretells that the text will repeat itself)",
};

function attention() {
  follow(["layer", "head"], drawHeads);
  follow(["layer", "head", "token"], drawHead);
  follow(["layer", "head"], tellHead);
  follow(["layer", "head", "token"], () => {
    const { layer, head, token: t } = chosen, name = `h.${layer}.attn.weights`, found = weightsOf(layer, head, t);
    byId("looks-at").replaceChildren("What ", isolated(nameOf(ids[t])), ` (token ${t}) looks at`);
    byId("row").replaceChildren(...found.map(({ s, value, text }) => {
      const item = element("li", {}, isolated(nameOf(ids[s])), " ", numberElement("span", name, { index: [head, t, s], text }));
      item.style.setProperty("--part", `${100 * value}%`);
      return item;
    }));
    if (data.attention.kept < T) byId("row").append(element("li", { class: "note" }, `the ${data.attention.kept} largest; all others together ` +
      three(Math.max(0, 1 - found.reduce((sum, { value }) => sum + value, 0)))));
  });
}

function drawHeads() {
  const { side } = data.attention, size = Math.max(1, Math.round(80 / side) / 2), box = side * size, pitch = box + 5;
  const children = shaded(size, (put) => {
    for (let layer = 0; layer < L; layer++) {
      for (let head = 0; head < H; head++) {
        cellsOf(layer, head, (row, column, weight) => put(round2(24 + head * pitch + column * size), round2(18 + layer * pitch + row * size), weight));
      }
    }
  });
  for (let i = 0; i < H; i++) children.push(words(24 + i * pitch + box / 2, 12, i, { "text-anchor": "middle", class: "quiet", "font-size": 9 }));
  for (let i = 0; i < L; i++) children.push(words(18, 18 + i * pitch + box / 2 + 3, i, { "text-anchor": "end", class: "quiet", "font-size": 9 }));
  const frames = [], named = [];
  data.attention.heads.forEach((row, layer) => row.forEach(({ kind }, head) => {
    const x = round2(24 + head * pitch), y = round2(18 + layer * pitch);
    frames.push(`M${x} ${y}h${box}v${box}h${-box}z`);
    if (kind) named.push(`M${x + box - 7} ${y}h7v7z`);
  }));
  children.unshift(svg("path", { class: "paper", d: frames.join("") }));
  children.push(svg("path", { class: "named", d: named.join("") }), svg("rect", { class: "mark", x: 24 + chosen.head * pitch - 1.5, y: 18 + chosen.layer * pitch - 1.5, width: box + 3, height: box + 3 }));
  const drawn = picture("heads", { label: `The attention of all ${L * H} heads`, width: 26 + H * pitch, height: 20 + L * pitch, children,
    table: () => ({ caption: "Where the attention of each head goes, as a share of all; - where no token has such a place", head: ["layer, head", ...Object.keys(KINDS)],
      rows: data.attention.heads.flatMap((row, layer) => row.map((shares, head) => [`${layer}, ${head}`, ...Object.keys(KINDS).map((kind) => (shares[kind] === null ? "-" : three(shares[kind])))])) }) });
  drawn.addEventListener("click", (event) => {
    const [x, y] = placeOf(event);
    choose({ head: between(Math.floor((x - 24) / pitch), 0, H - 1), layer: between(Math.floor((y - 18) / pitch), 0, L - 1) });
  });
}

function drawHead() {
  const { layer, head, token } = chosen, all = data.attention.kept === T;
  const n = all ? T : data.attention.side, size = round2(between(420 / n, 3, 40)), left = n <= 48 ? 92 : 30, top = n <= 48 ? 64 : 20;
  const tokenOf = (i) => Math.floor(i * T / n), children = [svg("path", { class: "paper", d: Array.from({ length: n }, (_, i) => `M${left} ${round2(top + i * size)}h${round2((i + 1) * size)}v${size}h${round2(-(i + 1) * size)}z`).join("") })];
  children.push(...shaded(size, (put) => {
    const at = (i, from) => round2(from + i * size);
    if (all) for (let t = 0; t < T; t++) for (const { s, value } of weightsOf(layer, head, t)) put(at(s, left), at(t, top), value);
    else cellsOf(layer, head, (row, column, weight) => put(at(column, left), at(row, top), weight));
  }));
  const nth = everyNth(n * size / 10, n);
  for (let i = 0; i < n; i += nth) {
    const t = tokenOf(i), name = n <= 48 ? short(nameOf(ids[t]), 12) : t, x = round2(left + i * size + size / 2), y = round2(top + i * size + size / 2 + 3);
    children.push(words(left - 4, y, name, { "text-anchor": "end", "font-size": 10 }));
    children.push(n <= 48 ? words(x + 3, top - 4, name, { "font-size": 10, transform: `rotate(-50 ${x + 3} ${top - 4})` }) : words(x, top - 4, name, { "text-anchor": "middle", "font-size": 9 }));
  }
  if (all && T <= 12) {
    for (let t = 0; t < T; t++) {
      for (const { s, value, text } of weightsOf(layer, head, t)) {
        const shown = numberElement("text", `h.${layer}.attn.weights`, { index: [head, t, s], text });
        for (const [key, x] of Object.entries({ x: left + s * size + size / 2, y: top + t * size + size / 2 + 3, "text-anchor": "middle", "font-size": text.length > 5 ? 6.5 : 9.5 })) shown.setAttribute(key, x);
        if (value > 0.35) shown.setAttribute("class", "on-ink");
        children.push(shown);
      }
    }
  }
  const row = all ? token : Math.floor(token * n / T);
  children.push(svg("rect", { class: "mark", x: left - 1, y: round2(top + row * size - 1), width: round2((row + 1) * size + 2), height: size + 2 }));
  const drawn = picture("head", { label: `The attention weights of head ${head} in layer ${layer}`, width: left + n * size + 40, height: top + n * size + 6, children,
    table: () => ({ caption: `h.${layer}.attn.weights, head ${head}${all ? "" : ": the largest of each row"}`, head: ["token that looks", "at token", "weight"],
      rows: (T <= 64 ? ids.map((_, t) => t) : [token]).flatMap((t) => weightsOf(layer, head, t).map(({ s, text }) => [`${t} ${nameOf(ids[t])}`, `${s} ${nameOf(ids[s])}`, numberElement("span", `h.${layer}.attn.weights`, { index: [head, t, s], text })])) }) });
  drawn.addEventListener("click", (event) => {
    choose({ token: between(tokenOf(between(Math.floor((placeOf(event)[1] - top) / size), 0, n - 1)), 0, last) });
  });
  document.querySelector('[data-picture="head"] figcaption').textContent = `Layer ${layer}, head ${head}. A row is a token that looks. ` +
    (all ? "The marked row is the chosen token." : `A cell stands for some ${Math.ceil(T / n)} tokens, and shows the largest weight among them.`);
}

function tellHead() {
  const { layer, head } = chosen, shares = data.attention.heads[layer][head], { kind, even } = shares;
  byId("what-head").textContent = `Layer ${layer}, head ${head}`;
  const figures = Object.keys(KINDS).filter((name) => shares[name] !== null).map((name) => `${name} ${shares[name].toFixed(2)}`).join(", ");
  const told = even === null ? "The text is too short to say what this head looks at: that takes three tokens."
    : kind ? `It looks at ${KINDS[kind]}: that gets ${percent(shares[kind])} of its attention. Spread evenly over all tokens, one would get ${percent(even)}.`
    : "It has no place of its own: none of those that are measured gets 40 % of its attention.";
  const sink = kind === "first" && shares.first_value !== null
    ? ` Weights must sum to 1, so a head that finds nothing has to put them somewhere: an attention sink. The value of the first token is ${shares.first_value.toFixed(2)} times as long as those of the others${shares.first_value < 0.5 ? ", so that nearly nothing is fetched from there" : ""}.` : "";
  byId("what-it-does").textContent = `${told}${sink}${even === null ? "" : ` Measured on this text: ${figures}.`}`;
}

// ---- 4. when does it know?

const depthAt = (p, t) => ({
  best: unpackInteger(data.lens.best, p * T + t), pBest: unpackNumber(data.lens.p_best, p * T + t),
  rank: unpackInteger(data.lens.rank, p * T + t), pNext: unpackNumber(data.lens.p_next, p * T + t),
});

/** The steps behind which the lens reads, in words. */
const depthName = (point) => (point === "embed" ? "the embedding" : point.replace(/h\.(\d+)\.resid_mid/, "layer $1, attention").replace(/h\.(\d+)\.resid_post/, "layer $1, MLP"));

function lens() {
  const { points } = data.lens, P = points.length, left = 112, top = 6, width = round2(between(800 / T, 2, 64)), height = between(420 / P, 8, 22);
  follow(["token"], () => {
    const children = shaded(width, (put) => {
      for (let p = 0; p < P; p++) for (let t = 0; t < last; t++) put(round2(left + t * width), round2(top + p * height), depthAt(p, t).pNext.value);
    }, height);
    const nth = everyNth(P * height / 9, P), bottom = top + P * height;
    for (let p = 0; p < P; p += nth) children.push(words(left - 4, round2(top + p * height + height / 2 + 3), depthName(points[p]).replace("the ", ""), { "text-anchor": "end", "font-size": 9 }));
    children.push(...namesBelow(left, width, bottom));
    if (width >= 40) {
      for (let p = 0; p < P; p++) {
        for (let t = 0; t < T; t++) {
          const { best, pNext } = depthAt(p, t);
          children.push(words(round2(left + t * width + width / 2), round2(top + p * height + height / 2 + 3), short(nameOf(best), Math.floor(width / 6)),
            { "text-anchor": "middle", "font-size": 9, class: t < last && pNext.value > 0.35 ? "on-ink" : null }));
        }
      }
    }
    children.unshift(svg("rect", { class: "paper", x: left, y: top, width: T * width, height: P * height }));
    children.push(svg("rect", { class: "mark", x: round2(left + chosen.token * width - 1), y: top - 1, width: width + 2, height: P * height + 2 }));
    const drawn = picture("lens", { label: "How likely the token that came next is, behind each step of the model", width: left + T * width + 60, height: bottom + 66, children,
      table: () => ({ caption: "Behind each step: the likeliest token and its probability, for each position", head: ["step", ...ids.map((id, t) => `${t} ${nameOf(id)}`)],
        rows: points.map((point, p) => [depthName(point), ...ids.map((_, t) => { const { best, pBest } = depthAt(p, t); return `${nameOf(best)} ${pBest.text}`; })]) }) });
    drawn.addEventListener("click", (event) => choose({ token: between(Math.floor((placeOf(event)[0] - left) / width), 0, last) }));
  });
  follow(["token"], () => {
    const t = chosen.token, came = t < last ? nameOf(ids[t + 1]) : null;
    byId("what-lens").replaceChildren("After ", isolated(nameOf(ids[t])), came === null ? ", the last token" : ", before ", came === null ? "" : isolated(came));
    byId("depths").replaceChildren(...tableElement({ caption: came === null ? "Nothing came after it, so only the likeliest is shown" : "What the stream says behind each step",
      head: ["step", "likeliest", "p", ...(came === null ? [] : ["rank of what came", "its p"])],
      rows: points.map((point, p) => {
        const { best, pBest, rank, pNext } = depthAt(p, t);
        return [depthName(point), isolated(nameOf(best)), pBest.text, ...(came === null ? [] : [rank, pNext.text])];
      }) }).children);
  });
  follow(["token"], () => {
    const target = byId("target");
    target.replaceChildren(...data.parts.targets[chosen.token].map((id, i) => option(i, `${nameOf(id)}${i === 0 && chosen.token < last ? " (which came)" : ""}`)));
    chosen.target = 0;
  });
  byId("target").addEventListener("change", () => choose({ target: Number(byId("target").value) }));
  follow(["token", "target", "layer", "head"], drawParts);
}

function drawParts() {
  const { token: t, target, layer, head } = chosen, { names, targets, added, logits } = data.parts, n = names.length, K = targets[t].length;
  const amounts = names.map((name, i) => ({ name, amount: unpackScaled(added, (t * K + target) * n + i, packing.part) }));
  const largest = Math.max(...amounts.map(({ amount }) => Math.abs(amount)), 1e-30);
  const size = between(Math.floor(560 / (H + 2)), 12, 34), left = 52, top = 30, children = [];
  const columns = [...Array.from({ length: H }, (_, i) => String(i)), "b", "mlp"];
  children.push(...shaded(size - 2, (put) => amounts.slice(2, -1).forEach(({ amount }, i) => {
    put(left + (i % (H + 2)) * size, top + Math.floor(i / (H + 2)) * size, Math.abs(amount) / largest, amount < 0 ? "less" : "more");
  })));
  columns.forEach((name, i) => children.push(words(left + i * size + size / 2 - 1, top - 6, name, { "text-anchor": "middle", "font-size": 9, class: "quiet" })));
  for (let i = 0; i < L; i++) children.push(words(left - 6, top + i * size + size / 2 + 3, `layer ${i}`, { "text-anchor": "end", "font-size": 9, class: "quiet" }));
  [["wte", amounts[0]], ["wpe", amounts[1]], ["ln_f.b", amounts[n - 1]]].forEach(([name, { amount }], i) => {
    const y = top + L * size + 6;
    children.push(...shaded(size - 2, (put) => put(left + i * 90, y, Math.abs(amount) / largest, amount < 0 ? "less" : "more")), words(left + i * 90 + size + 2, y + size / 2 + 3, name, { "font-size": 10 }));
  });
  children.unshift(svg("rect", { class: "paper", x: left - 3, y: top - 3, width: (H + 2) * size + 4, height: L * size + 4 }));
  children.push(svg("rect", { class: "mark", x: left + head * size - 2, y: top + layer * size - 2, width: size + 2, height: size + 2 }));
  const drawn = picture("parts", { label: `What each part added to the logit of ${nameOf(targets[t][target])} after token ${t}`, width: Math.max(left + (H + 2) * size + 10, 330), height: top + (L + 1) * size + 10, children,
    table: () => ({ caption: `They sum to the logit, ${logits[t][target].toFixed(7)}`, head: ["part", "added"],
      rows: [...amounts].sort((a, b) => Math.abs(b.amount) - Math.abs(a.amount)).map(({ name, amount }) => [name, element("span", { "data-part": name }, amount.toFixed(7))]) }) });
  drawn.addEventListener("click", (event) => {
    const [x, y] = placeOf(event);
    choose({ head: between(Math.floor((x - left) / size), 0, H - 1), layer: between(Math.floor((y - top) / size), 0, L - 1) });
  });
  const most = [...amounts].sort((a, b) => b.amount - a.amount)[0], named = most.name.replace(/h\.(\d+)\.attn\.z:(\d+)/, "head $2 of layer $1").replace(/h\.(\d+)\.mlp_out/, "the MLP of layer $1");
  byId("sum").textContent = `is ${logits[t][target].toFixed(3)}. Most was added by ${named}: ${most.amount.toFixed(3)}.`;
}

// ---- 5. the next token

const CONTROLS = ["temperature", "top_k", "top_p", "min_p"];

/** What the tokens of a bin weigh together. The last lies at its lower edge, and the others evenly above it. */
function weightOf({ count, high, low }) {
  const width = high - low;
  return Math.exp(low) * (width && count > 1 ? Math.expm1(width) / Math.expm1(width / count) : count);
}

/** The first tokens of a bin. */
const firstOf = (bin, count) => ({ count, high: bin.high, low: bin.high - (bin.high - bin.low) * count / bin.count });

/** The tokens of a bin that are likelier than an edge, and of another weight before they reach a sum. */
const above = (bin, edge) => firstOf(bin, Math.floor(bin.count * (bin.high - edge) / (bin.high - bin.low)));
function upTo(bin, sum) {
  let count = 1;
  while (count < bin.count && weightOf(firstOf(bin, count)) < sum) count++;
  return firstOf(bin, count);
}

/** What is left of the candidates, and how likely each is: temperature, top-k, top-p, min-p, in this order, as in sampling.py.
    rest: how many tokens below the candidates are still in it, and how likely they are together. */
function distribution(t, { temperature, top_k, top_p, min_p }) {
  const candidates = candidatesAt(t), top = candidates[0].logit, scaled = (logit) => (logit - top) / temperature;
  if (temperature === 0) return { candidates: candidates.map((c, i) => ({ ...c, p: i ? 0 : 1 })), rest: { count: 0, p: 0 } };
  const x = candidates.map(({ logit }) => scaled(logit)), sumOf = (numbers) => numbers.reduce((sum, one) => sum + one, 0);
  let weights = x.map(Math.exp);
  let bins = tailAt(t).map(({ count, high, low }) => ({ count, high: scaled(high), low: scaled(low) }));
  if (top_k && top_k < candidates.length + sumOf(bins.map(({ count }) => count))) {
    const kth = x[Math.min(top_k, x.length) - 1];
    weights = weights.map((w, i) => (x[i] < kth ? 0 : w));
    bins = [];
  }
  const total = () => sumOf(weights) + sumOf(bins.map(weightOf));
  if (top_p < 1) {
    let missing = top_p * total();
    weights = weights.map((w) => { const kept = missing > 0 ? w : 0; missing -= w; return kept; });
    bins = bins.flatMap((bin) => {
      if (missing <= 0) return [];
      const kept = upTo(bin, missing);
      missing -= weightOf(bin);
      return [kept];
    });
  }
  if (min_p) {
    const least = Math.log(min_p);
    weights = weights.map((w, i) => (x[i] < least ? 0 : w));
    bins = bins.filter(({ high }) => high > least).map((bin) => (bin.low < least ? above(bin, least) : bin)).filter(({ count }) => count);
  }
  const sum = total();
  return {
    candidates: candidates.map((c, i) => ({ ...c, p: weights[i] / sum })),
    rest: { count: sumOf(bins.map(({ count }) => count)), p: sumOf(bins.map(weightOf)) / sum },
  };
}

const WORD = (1n << 64n) - 1n;

/** Four random words of 64 bits: Philox4x64-10 (Salmon et al. 2011), as NumPy has it. */
function philox(counter, key) {
  let [a, b, c, d] = counter, [k, l] = key;
  for (let round = 0; round < 10; round++) {
    const first = 0xD2E7470EE14C6C93n * a, second = 0xCA5A826395121157n * c;
    [a, b, c, d] = [(second >> 64n) ^ b ^ k, second & WORD, (first >> 64n) ^ d ^ l, first & WORD];
    k = (k + 0x9E3779B97F4A7C15n) & WORD;
    l = (l + 0xBB67AE8584CAA73Bn) & WORD;
  }
  return [a, b, c, d];
}

/** The exponential number of each id at a position, as sampling.exponentials gives it. */
function exponentials(seed, position, wanted) {
  const blocks = new Map();
  return wanted.map((id) => {
    const block = Math.floor(id / 4);
    if (!blocks.has(block)) blocks.set(block, philox([BigInt(block + 1), BigInt(position), 0n, 0n], [seed, 0n]));
    return -Math.log((Number(blocks.get(block)[id % 4] >> 12n) + 0.5) * 2 ** -52);
  });
}

const readControls = () => Object.fromEntries(CONTROLS.map((name) => [name, Number(byId(name).value)]));

function next() {
  for (const name of CONTROLS) byId(name).addEventListener("input", () => choose({ controls: readControls() }));
  byId("seed").addEventListener("input", () => choose({ controls: readControls() }));
  byId("again").addEventListener("click", () => { byId("seed").value = Number(byId("seed").value) + 1; choose({ controls: readControls() }); });
  chosen.controls = readControls();
  follow(["token", "controls"], () => {
    const { token: t, controls } = chosen, { candidates, rest } = distribution(t, controls), kept = candidates.filter(({ p }) => p > 0);
    for (const name of CONTROLS) document.querySelector(`output[for="${name}"]`).textContent = name === "top_k" && !controls.top_k ? "off" : controls[name];
    byId("what-next").replaceChildren("What may follow ", isolated(nameOf(ids[t])), ` (token ${t})`,
      ...(t < last ? ["; ", isolated(nameOf(ids[t + 1])), " came. "] : ", the end of the text. "),
      "Softmax makes probabilities of the logits. The controls narrow or widen the choice.");
    byId("kept").textContent = `${(kept.length + rest.count).toLocaleString("en")} of ${(config.n_tokens || V).toLocaleString("en")} tokens may be drawn.` +
      (rest.count ? ` ${rest.count.toLocaleString("en")} of them are not listed one by one; together their probability is ${three(rest.p)}.` : "");
    drawNext(t, candidates);
    drawRace(t, kept, rest);
  });
}

function drawNext(t, candidates) {
  const shown = candidates.slice(0, 40), drawn = shown.slice(0, 14), children = [];
  drawn.forEach(({ id, p }, i) => {
    children.push(words(96, 16 + 20 * i, short(nameOf(id), 13), { "text-anchor": "end" }), svg("rect", { class: "ink", x: 102, y: 6 + 20 * i, width: round2(200 * p), height: 13 }),
      words(106 + round2(200 * p), 16 + 20 * i, p ? three(p) : "cut", { class: "quiet" }));
  });
  const table = (number) => ({ caption: `The ${shown.length} likeliest of all tokens`, head: ["token", "id", "logit", "p"],
    rows: shown.map(({ id, logit, p }) => [isolated(nameOf(id)), id, number(id, logit.toFixed(2)), p ? p.toPrecision(3) : "0"]) });
  picture("next", { label: `The likeliest tokens after token ${t}`, width: 360, height: 20 * drawn.length + 8, children, table: () => table((_, text) => text) });
  byId("candidates").replaceChildren(...tableElement(table((id, text) => numberElement("span", "logits", { index: [t, id], text }))).children);
  [...byId("candidates").tBodies[0].rows].forEach((row, i) => { row.dataset.id = shown[i].id; row.dataset.p = shown[i].p; });
}

function drawRace(t, kept, rest) {
  const text = byId("seed").value.trim(), seed = /^\d{1,20}$/.test(text) ? BigInt(text) & WORD : 0n;
  const clocks = exponentials(seed, t + 1, kept.map(({ id }) => id)).map((e, i) => ({ ...kept[i], e, time: e / kept[i].p })).sort((a, b) => a.time - b.time);
  const shown = clocks.slice(0, 14), longest = shown[shown.length - 1].time, children = [];
  shown.forEach(({ id, time }, i) => {
    children.push(words(96, 16 + 20 * i, short(nameOf(id), 13), { "text-anchor": "end" }), svg("rect", { class: i ? "ink" : "named", x: 102, y: 6 + 20 * i, width: round2(Math.max(1, 200 * time / longest)), height: 13 }),
      words(106 + round2(200 * time / longest), 16 + 20 * i, three(time), { class: "quiet" }));
  });
  picture("race", { label: "The first clocks to ring", width: 360, height: 20 * shown.length + 8, children,
    table: () => ({ caption: "The race, the first to ring at the top", head: ["token", "E", "p", "E/p"], rows: shown.map(({ id, e, p, time }) => [isolated(nameOf(id)), three(e), three(p), three(time)]) }) });
  document.querySelector('[data-picture="race"] figcaption').textContent = `When the clocks ring, with seed ${seed}: the shortest bar is drawn.` +
    (rest.count ? " Those of the tokens that are not listed are left out; with top-k 40 there are none." : "");
  byId("drawn").replaceChildren("draws ", isolated(nameOf(clocks[0].id)), rest.count ? ", unless a token that is not listed rings before it" : "");
}

// ---- 6. how surprised was it?

const SCALES = {
  rank: { of: (t) => data.surprise.ranks[t], steps: [1, 10, 100, 1000], names: ["the likeliest", "to 10", "to 100", "to 1,000", "beyond"] },
  bits: { of: (t) => (data.surprise.log_probs[t] === null ? null : -data.surprise.log_probs[t] / Math.LN2), steps: [1, 3, 6, 10], names: ["to 1 bit", "to 3", "to 6", "to 10", "beyond"] },
};

/** The shade of a token, s1 to s5 from expected to not at all; s0 where nothing came before it. */
function shadeOf({ of, steps }, t) {
  const x = of(t);
  return x === null ? "s0" : `s${1 + steps.filter((step) => x > step).length}`;
}

function surprise() {
  const row = document.querySelector("#surprise [data-row]"), { perplexity } = data.surprise;
  byId("what-surprise").textContent = T === 1 ? "One token alone has nothing before it that could foretell it."
    : "Before each token the model gave every token of its vocabulary a probability. How far down its list was the one that came, and how many bits of surprise is that? " +
      `The first token has nothing before it.${perplexity === null ? "" : ` In all: a perplexity of ${three(perplexity)}, as if it had chosen among so many equally likely tokens each time.`}`;
  row.append(...ids.map((id, t) => element("button", { type: "button", "data-token": t, "aria-pressed": "false", tabindex: -1 },
    isolated(id in data.texts ? escaped(data.texts[id]).replaceAll("\n", "⏎\n") : ` ${id}`))));
  follow(["token"], () => markIn(row));
  for (const radio of document.querySelectorAll('[name="colour"]')) radio.addEventListener("change", () => choose({ colour: radio.value }));
  follow(["colour"], () => {
    const scale = SCALES[chosen.colour];
    [...row.children].forEach((button, t) => { button.className = shadeOf(scale, t); });
    byId("key").replaceChildren(...scale.names.map((name, i) => element("span", { class: `s${i + 1}` }, name)));
  });
  follow(["token"], () => {
    const t = chosen.token, rank = data.surprise.ranks[t], logProb = data.surprise.log_probs[t];
    byId("one-surprise").replaceChildren(isolated(nameOf(ids[t])), rank === null ? ": nothing came before it."
      : `: rank ${rank.toLocaleString("en")}, probability ${three(Math.exp(logProb))}, log-probability ${logProb.toFixed(4)}, ${(-logProb / Math.LN2).toFixed(2)} bits.`);
  });
  follow(["token"], drawSurprise);
}

function drawSurprise() {
  const bits = ids.map((_, t) => SCALES.bits.of(t) ?? 0), most = Math.max(...bits, 1), left = 44, width = round2(between(820 / T, 1.5, 40)), height = 110, children = [];
  const bars = ids.map((_, t) => `M${round2(left + t * width)} ${round2(height + 8 - height * bits[t] / most)}h${round2(width * 0.85)}V${height + 8}h${round2(-width * 0.85)}z`);
  children.push(svg("path", { class: "ink", d: bars.join("") }), svg("path", { class: "wire", d: `M${left} ${height + 8}h${round2(T * width)}` }));
  children.push(words(left - 5, 16, most.toFixed(1), { "text-anchor": "end", "font-size": 9, class: "quiet" }), words(left - 5, height + 8, "0 bits", { "text-anchor": "end", "font-size": 9, class: "quiet" }));
  children.push(...namesBelow(left, width, height + 8));
  children.push(svg("rect", { class: "mark", x: round2(left + chosen.token * width - 1), y: 7, width: round2(width + 1), height: height + 2 }));
  const drawn = picture("surprise", { label: "How many bits each token was a surprise", width: left + T * width + 60, height: height + 76, children,
    table: () => ({ caption: "As numgpt score gives them", head: ["token", "rank", "log-probability", "bits"],
      rows: ids.map((id, t) => { const [rank, log] = [data.surprise.ranks[t], data.surprise.log_probs[t]]; return [`${t} ${nameOf(id)}`, ...(rank === null ? ["-", "-", "-"] : [rank, log.toFixed(4), (-log / Math.LN2).toFixed(2)])]; }) }) });
  drawn.addEventListener("click", (event) => choose({ token: between(Math.floor((placeOf(event)[0] - left) / width), 0, last) }));
}

// ---- 7. what a cache saves

function cache() {
  const C = config.n_embd, F = config.F, n = (x) => x.toLocaleString("en");
  const perToken = L * (4 * C * C + 2 * C * F), attention = (queries, keys) => 2 * L * C * queries * keys;
  byId("what-cache").textContent = `To go on after the last token, only that token has to pass through the model. Of the ${n(last)} before it nothing is ` +
    "computed again: each layer reads the keys and values that it kept of them. They can be kept because no token ever sees what comes after it, so nothing of it changes.";
  const rows = [
    ["multiplications of the matrices, and for the logits", perToken * T + C * V, perToken + C * V],
    ["of attention", attention(T, T), attention(1, T)],
    ["numbers that are read from the cache", 0, 2 * L * C * last],
  ];
  byId("work").replaceChildren(...tableElement({ caption: "For the token after the last", head: ["work", "without a cache", "with it"],
    rows: rows.map(([what, without, with_]) => [what, n(without), n(with_)]) }).children);
  const width = round2(between(600 / T, 2, 36)), height = between(240 / L, 5, 24), left = 54, shown = [];
  for (let layer = 0; layer < L; layer++) {
    shown.push(svg("path", { class: "read", d: Array.from({ length: last }, (_, t) => `M${round2(left + t * width)} ${layer * height + 4}h${round2(width * 0.9)}v${height - 2}h${round2(-width * 0.9)}z`).join("") }),
      svg("rect", { class: "computed", x: round2(left + last * width), y: layer * height + 4, width: round2(width * 0.9), height: height - 2 }));
  }
  for (let layer = 0; layer < L; layer += everyNth(L * height / 10, L)) shown.push(words(left - 5, layer * height + height / 2 + 7, `layer ${layer}`, { "text-anchor": "end", "font-size": 9, class: "quiet" }));
  shown.push(...namesBelow(left, width, L * height + 2));
  picture("cache", { label: `Of ${T} tokens one is computed, and the keys and values of ${last} are read`, width: left + T * width + 50, height: L * height + 66, children: shown,
    table: () => ({ caption: "For each layer", head: ["layer", "tokens that are computed", "tokens whose keys and values are read"], rows: Array.from({ length: L }, (_, i) => [String(i), 1, last]) }) });
}

// ---- begin

bar();
tokens();
way();
attention();
lens();
next();
surprise();
cache();
choose(chosen);
