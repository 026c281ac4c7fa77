"use strict";

const EVERY_MS = 5000;
const WIDTH = 300;
const HEIGHT = 80;
const state = document.getElementById("state");
const whole = new Intl.NumberFormat("en");

function show(name, text) {
  document.querySelector(`[data-show="${name}"]`).textContent = text;
}

function number(value) {
  return value === null || value === undefined ? "–" : whole.format(value);
}

// Texts become text nodes, never markup: captions and errors are not trusted.
function element(tag, content, attributes = {}) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...[content].flat());
  return made;
}

function list(name, items) {
  document.querySelector(`[data-list="${name}"]`).replaceChildren(...items);
}

function row(name, ...values) {
  const cells = values.map((value) => element("td", number(value)));
  return element("tr", [element("th", name, { scope: "row" }), ...cells]);
}

function component([name, state]) {
  const kind = state === "ok" ? "ok" : "failed";
  return element("li", [element("strong", name), ` ${state}`], { class: kind });
}

function image(card) {
  const address = encodeURIComponent(card.id);
  const picture = element("img", [], {
    src: `/thumbnail/${address}.jpg`, alt: "", width: 320, height: 240,
  });
  const caption = element("span", card.caption || "No caption", { class: "caption" });
  const link = element("a", [picture, caption], { href: `/image/${address}` });
  return element("li", [link, element("span", `${card.vsn} ${card.time}`, { class: "quiet" })]);
}

function minutes(from, to) {
  return Math.max(1, Math.round((new Date(to) - new Date(from)) / 60000));
}

function chart(name, title, times, values) {
  if (!times.length) return;
  const svg = document.querySelector(`[data-chart="${name}"]`);
  const axis = svg.nextElementSibling;
  const max = Math.max(1, ...values.filter((value) => value !== null));
  const start = new Date(times[0]).getTime();
  const span = new Date(times[times.length - 1]).getTime() - start || 1;
  const points = values.flatMap((value, index) => {
    const x = ((new Date(times[index]).getTime() - start) / span) * WIDTH;
    const y = HEIGHT - 2 - ((value ?? 0) / max) * (HEIGHT - 6);
    return value === null ? [] : [`${x.toFixed(1)},${y.toFixed(1)}`];
  });
  const line = points.length ? `M${points.join("L")}` : "";
  const first = points.length ? points[0].split(",")[0] : 0;
  svg.querySelector(".line").setAttribute("d", line);
  svg.querySelector(".area").setAttribute("d", line && `${line}V${HEIGHT}H${first}Z`);
  const ago = `${minutes(times[0], times[times.length - 1])} min ago`;
  axis.querySelector("[data-from]").textContent = ago;
  axis.querySelector("[data-most]").textContent = `max ${number(max)}`;
  const last = number(values[values.length - 1]);
  svg.setAttribute("aria-label", `${title} since ${ago}: now ${last}, maximum ${number(max)}`);
}

// As weavloader.times.duration does.
function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  let rest = Math.max(0, Math.floor(seconds));
  const parts = [];
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]]) {
    const amount = Math.floor(rest / length);
    if (amount || parts.length) parts.push(amount ? `${amount}${unit}` : "");
    rest %= length;
  }
  return parts.slice(0, 2).join(" ").trim() || "0s";
}

function stream(status) {
  if (!status) return "The moderator has not polled the stream yet.";
  const waits = status.waiting ? "; paused until the queue drains" : "";
  const polled = duration(status.last_poll_seconds);
  return `since the newest capture; polled ${polled} ago, received ${number(status.received)}${waits}`;
}

function alert({ alert: name, words, severity }) {
  return element("a", words, {
    class: `alert ${severity}`, href: `/runbook#${name.toLowerCase()}`,
  });
}

function render(status) {
  for (const shown of document.querySelectorAll("[data-alerts]")) {
    const places = shown.dataset.alerts.split(" ");
    const found = places.map((place) => status.alerts[place]).filter(Boolean);
    shown.replaceChildren(...found.map(alert));
  }
  const oldest = status.oldest_seconds;
  show("oldest", oldest ? `the oldest has waited ${duration(oldest)}` : "");
  show("images_per_minute", number(status.images_per_minute));
  show("images_queued", number(status.images_queued));
  show("images_stored", number(status.images_stored));
  show("dead_letters", number(status.dead_letters));
  show("lag", duration(status.stream?.lag_seconds));
  show("stream", stream(status.stream));
  list("components", Object.entries(status.components).map(component));
  const workers = Object.entries(status.workers);
  list("workers", workers.map(([role, counts]) => row(role, counts.online, counts.running)));
  list("queues", Object.entries(status.queues ?? {}).map(([name, size]) => row(name, size)));
  list("newest", status.newest.map(image));
  const { at, images_per_minute: rate, images_queued: queued } = status.history;
  chart("images_per_minute", "Images per minute", at, rate);
  chart("images_queued", "Images queued", at, queued);
}

let shownAt = null;

async function refresh() {
  try {
    const answer = await fetch("/api/status", { cache: "no-store" });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const status = await answer.json();
    if (status.at !== shownAt) render(status);
    shownAt = status.at;
    const time = new Date(status.at).toISOString().slice(11, 19);
    if (state.dataset.lost !== "no") state.textContent = "Updates automatically.";
    state.dataset.lost = "no";
    state.title = `Last snapshot at ${time} UTC`;
  } catch {
    state.textContent = "The server does not respond; the values shown are old. Trying again.";
    state.dataset.lost = "yes";
  }
}

refresh();
setInterval(() => document.hidden || refresh(), EVERY_MS);
