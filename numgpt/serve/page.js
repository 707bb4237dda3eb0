// The page of numgpt serve: it writes with the server's API, and shows of each token what else might have come.
"use strict";

const at = (id) => document.getElementById(id);
const LIKELIEST = 8;
const SHADES = [1, 3, 6, 10]; // bits of surprise from which on a token is darker

const state = {
  prompt: "",      // the text that was written on from
  ids: [],         // its ids, as the server has cut it
  tokens: [],      // what came: {id, text, logProb, others: [{id, text, logProb}]}
  chosen: -1,      // which of them is shown
  asking: null,    // what ends the request that is under way
};

// ---- text that may hold anything

const UNSEEN = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g;

function visible(text) {
  const spelled = (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return text.replace(UNSEEN, spelled).replace(/\n/g, "↵\n");
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function bytesOf(word) { // a token as the API spells it
  if (!word.startsWith("bytes:")) return new TextEncoder().encode(word);
  const parts = word.slice(6).match(/\\x[0-9a-f]{2}|[^]/g) || [];
  return Uint8Array.from(parts, (part) => (part.length === 4 ? parseInt(part.slice(2), 16) : part.charCodeAt(0)));
}

function percent(logProb) {
  const p = 100 * Math.exp(logProb);
  return p >= 99.95 ? "100 %" : p >= 0.1 ? `${p.toPrecision(p < 1 ? 1 : 3)} %` : "< 0.1 %";
}

// ---- the server

async function ask(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const key = sessionStorage.getItem("key");
  if (key) headers.Authorization = `Bearer ${key}`;
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (answer.ok) return answer;
  if (answer.status === 401) {
    at("ask-key").hidden = false;
    at("key").focus();
  }
  const told = await answer.json().catch(() => null);
  throw new Error(told?.error?.message || `the server answers ${answer.status}`);
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the connection broke off");
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event.choices[0];
    }
  }
}

function settings() {
  const fields = at("settings").elements;
  if (at("new-seed").checked) fields.seed.value = crypto.getRandomValues(new Uint32Array(1))[0];
  const asked = {};
  for (const field of fields) if (field.name && field.value !== "") asked[field.name] = Number(field.value);
  const stop = at("stops").value.split("\n").filter((line) => line);
  if (stop.length) asked.stop = stop;
  return asked;
}

// ---- writing

function writeAnew() {
  state.prompt = at("prompt").value;
  state.ids = [];
  state.tokens = [];
  write(state.prompt);
}

function writeOn(end = state.tokens.length) {
  state.tokens.length = end;
  if (isEnd(state.tokens.at(-1))) state.tokens.pop();
  if (!state.ids.length) return writeAnew();
  return write([...state.ids, ...state.tokens.map((token) => token.id)]);
}

const isEnd = (token) => token?.text === "<|endoftext|>";

async function write(prompt) {
  state.asking?.abort();
  const asking = (state.asking = new AbortController());
  choose(-1);
  draw();
  say("Writing …");
  busy(true);
  const decoder = new TextDecoder();
  const start = performance.now();
  let count = 0;
  try {
    const body = { ...settings(), prompt, stream: true, logprobs: LIKELIEST, return_token_ids: true };
    let reason = "";
    for await (const part of events(await ask("/v1/completions", body, asking.signal))) {
      if (state.asking !== asking) return;
      if (part.prompt_token_ids && !state.ids.length) state.ids = part.prompt_token_ids;
      part.token_ids.forEach((id, k) => {
        const top = Object.entries(part.logprobs.top_logprobs[k]).sort((a, b) => b[1] - a[1]); // "7" would come first
        const others = top.map(([word, logProb], j) => ({ id: part.logprobs.top_token_ids[k][j], word, logProb }));
        const text = decoder.decode(bytesOf(part.logprobs.tokens[k]), { stream: true });
        add({ id, text, word: part.logprobs.tokens[k], logProb: part.logprobs.token_logprobs[k], others });
        count += 1;
      });
      reason = part.finish_reason || reason;
    }
    const words = { stop: "The text has come to its end", length: "It has as many tokens as were asked for" };
    const rate = (count / (performance.now() - start)) * 1000;
    say(`${words[reason] || "Done"}: ${count} token${count === 1 ? "" : "s"}, ${rate.toFixed(0)} a second.`);
  } catch (error) {
    if (state.asking !== asking) return;
    if (asking.signal.aborted) say(`Stopped after ${count} tokens.`);
    else fail(error);
  }
  state.asking = null;
  busy(false);
}

function stop() {
  state.asking?.abort();
}

function busy(is) {
  at("stop").disabled = !is;
  at("write").disabled = is;
  at("more").disabled = is || !state.ids.length;
  at("story").classList.toggle("cursor", is);
}

function say(words) {
  at("error").textContent = "";
  at("status").textContent = words;
}

function fail(error) {
  at("status").textContent = "";
  at("error").textContent = error instanceof TypeError ? "The server can't be reached: is it still running?" : error.message;
}

// ---- the text, token by token

function draw() {
  at("story").replaceChildren();
  if (state.prompt) at("story").append(make("bdi", { textContent: visible(state.prompt) }));
  state.tokens.forEach(show);
}

function add(token) {
  state.tokens.push(token);
  show(token, state.tokens.length - 1);
}

function show(token, number) {
  const bits = -token.logProb / Math.log(2);
  const shade = SHADES.filter((from) => bits >= from).length;
  const button = make("button", { type: "button", className: `s${shade}`, tabIndex: number ? -1 : 0 });
  button.dataset.number = number;
  button.ariaPressed = "false";
  if (token.text) button.append(make("bdi", { textContent: visible(token.text) }));
  else button.append(make("span", { className: "unseen", textContent: "◦" }));
  at("story").append(button);
}

const buttons = () => [...at("story").querySelectorAll("button")];

function choose(number) {
  const before = buttons()[state.chosen];
  if (before) before.ariaPressed = "false";
  state.chosen = number;
  const token = state.tokens[number];
  if (!token) {
    at("token").replaceChildren(make("p", { className: "note", textContent: "None is chosen." }));
    return;
  }
  buttons().forEach((button, k) => {
    button.ariaPressed = String(k === number);
    button.tabIndex = k === number ? 0 : -1;
  });
  const list = make("ol");
  for (const other of token.others) {
    const button = make("button", { type: "button" }, make("bdi", { textContent: visible(other.word) }));
    button.addEventListener("click", () => replace(number, other));
    const meter = make("meter", { min: 0, max: 1, value: Math.exp(other.logProb), ariaLabel: "probability" });
    const item = make("li", {}, button, meter, make("span", { className: "number", textContent: percent(other.logProb) }));
    if (other.id === token.id) item.ariaCurrent = "true";
    list.append(item);
  }
  const from = make("button", { type: "button", textContent: "Go on from here" });
  from.addEventListener("click", () => writeOn(number + 1));
  const about = make("p", {}, make("bdi", { textContent: visible(token.word) }));
  about.append(`, id ${token.id}: ${percent(token.logProb)}. Instead of it, the likeliest were these; choose one, and the text goes on with it.`);
  at("token").replaceChildren(about, list, make("div", { className: "buttons" }, from));
}

function replace(number, other) {
  const token = state.tokens[number];
  state.tokens.length = number;
  if (other.word === "<|endoftext|>") {
    draw();
    choose(-1);
    say("There the text ends.");
    return;
  }
  const text = new TextDecoder().decode(bytesOf(other.word), { stream: true });
  state.tokens.push({ ...other, text, others: token.others });
  writeOn();
}

// ---- explain

async function explain() {
  say("Making the page …");
  at("page").replaceChildren();
  try {
    const same = state.ids.length && state.prompt === at("prompt").value;
    const ids = [...state.ids, ...state.tokens.filter((token) => !isEnd(token)).map((token) => token.id)];
    const prompt = same ? ids : at("prompt").value;
    const page = await (await ask("/explain", { prompt })).blob();
    const link = make("a", { href: URL.createObjectURL(page), target: "_blank", textContent: "Open the page that explains this text" });
    at("page").append(link);
    say("");
    link.focus();
  } catch (error) {
    fail(error);
  }
}

// ---- keys and buttons

at("write").addEventListener("click", writeAnew);
at("more").addEventListener("click", () => writeOn());
at("stop").addEventListener("click", stop);
at("explain").addEventListener("click", explain);
at("settings").addEventListener("submit", (event) => event.preventDefault());
at("ask-key").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", at("key").value);
  at("ask-key").hidden = true;
  say("");
  greet();
});
at("story").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) choose(Number(button.dataset.number));
});
at("story").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const button = step && buttons()[Number(document.activeElement.dataset.number) + step];
  if (!button) return;
  event.preventDefault();
  button.focus();
  choose(Number(button.dataset.number));
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (!at("write").disabled) writeAnew();
  }
  if (event.key === "Escape") stop();
});

async function greet() {
  try {
    const { data: [model] } = await (await ask("/v1/models")).json();
    at("settings").elements.max_tokens.max = model.max_model_len;
    at("about").textContent = `A GPT-2 on this machine, which sees ${model.max_model_len} tokens. It goes on with a text, token by token.`;
  } catch (error) {
    fail(error);
  }
}

greet();
