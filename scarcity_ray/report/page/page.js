"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const make = (name, words) => Object.assign(document.createElement(name), { textContent: words });
  const number = (value, digits = 0) =>
    (value / 10 ** digits).toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const signed = (value, digits) => (value >= 0 ? "+" : "-") + number(Math.abs(value), digits);

  // What is wider than the window scrolls, and must then be reached by keyboard.
  const reach = () => {
    for (const box of document.querySelectorAll(".scroll")) {
      if (box.scrollWidth > box.clientWidth) {
        const name = box.querySelector("title, caption").textContent;
        for (const [key, value] of [["tabindex", "0"], ["role", "group"], ["aria-label", name]]) box.setAttribute(key, value);
      } else {
        for (const key of ["tabindex", "role", "aria-label"]) box.removeAttribute(key);
      }
    }
  };
  reach();
  addEventListener("resize", reach);
  for (const one of document.querySelectorAll("details")) one.addEventListener("toggle", reach);

  const speed = byId("speed");
  if (speed) {
    const time = (seconds) => {
      if (seconds < 0.1) return "under 0.1 s";
      if (seconds < 60) return number(seconds * 10, 1) + " s";
      if (seconds < 5400) return number((seconds / 60) * 10, 1) + " min";
      return number((seconds / 3600) * 10, 1) + " h";
    };
    const fill = () => {
      const bits = 1e6 * speed.valueAsNumber;
      for (const cell of document.querySelectorAll("td.mine"))
        cell.textContent = bits > 0 ? time((8 * cell.dataset.bytes) / bits) : "-";
    };
    for (const cell of document.querySelectorAll(".mine")) cell.hidden = false;
    speed.closest(".field").hidden = false;
    speed.addEventListener("input", fill);
    fill();
  }

  const block = byId("sites");
  if (!block || !byId("finder")) return;
  const { metric, strategy, digits, finer, columns } = JSON.parse(block.textContent);
  const field = byId("site-name"), list = byId("site-list"), found = byId("site-found");
  const most = 8;
  const folded = columns.name.map((name) => name.toLowerCase());
  const gains = columns.gain.filter((gain) => gain !== null).length;
  let shown = [], chosen = -1;

  const size = (bytes) => {
    if (bytes < 1024) return number(bytes) + " B";
    let unit = "";
    for (unit of ["KB", "MB", "GB", "TB"]) if ((bytes /= 1024) < 1024) break;
    return number(bytes * 10, 1) + " " + unit;
  };

  const facts = (i) => {
    const at = (name) => (Array.isArray(columns[name]) ? columns[name][i] : columns[name] ?? null);
    const value = (name, words) => (at(name) === null ? "none" : words(at(name), digits));
    const rows = [["Rows", number(at("train")) + " for training, " + number(at("test")) + " for testing"]];
    rows.push([metric + " alone", value("alone", number)], [metric + " with " + strategy, value("federated", number)]);
    if (at("gain") === null) {
      rows.push(["Gain", "none: its test rows define no " + metric + ", or it has no model"]);
    } else {
      rows.push(["Gain", signed(at("gain"), digits) + ", 90 % interval " + signed(at("low"), digits) + " to " + signed(at("high"), digits)]);
      const sure = { 1: "It is surely better off", 0: "Its rows cannot tell whether it is better off", "-1": "It is surely worse off" };
      rows.push(["Conclusion", sure[at("sure")]], ["Rank", number(gains - i) + " of " + number(gains) + ", from the largest gain"]);
    }
    if (at("expert") !== null) rows.push(["Expert", String(at("expert"))]);
    if (at("contribution") !== null)
      rows.push(["Contribution", (at("contribution") < 0 ? "" : "+") + (at("contribution") / 10 ** finer).toPrecision(3) +
        ": what its rows take from the loss of the others of its expert; below 0 they add to it"]);
    rows.push(["Bytes", size(at("bytes")) + " sent and received"]);
    return rows;
  };

  // A line in the chart of gains where the client stands.
  const mark = (i) => {
    for (const old of document.querySelectorAll("path.here")) old.remove();
    const chart = document.querySelector("svg[data-ranks]");
    if (!chart || i >= gains) return;
    const [first, last, from, to, across] = chart.dataset.ranks.split(" ").map(Number);
    const place = first + ((i + 0.5) / gains) * (last - first);
    const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    line.setAttribute("class", "here");
    line.setAttribute("d", across ? `M${from} ${place + 9}H${to}` : `M${place} ${from}V${to}`);
    chart.append(line);
  };

  const show = (i) => {
    const heading = make("h3", "");
    heading.append(make("bdi", columns.name[i]));
    const told = document.createElement("dl");
    for (const [what, words] of facts(i)) {
      const row = document.createElement("div");
      row.append(make("dt", what), make("dd", words));
      told.append(row);
    }
    found.replaceChildren(heading, told);
    mark(i);
  };

  const close = () => {
    list.hidden = true;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  };

  const point = (place) => {
    chosen = place;
    [...list.children].forEach((item, k) => item.setAttribute("aria-selected", String(k === place)));
    if (place >= 0) field.setAttribute("aria-activedescendant", "site-" + place);
    else field.removeAttribute("aria-activedescendant");
  };

  const take = (place) => {
    if (!(place in shown)) return;
    field.value = columns.name[shown[place]];
    show(shown[place]);
    close();
  };

  const search = () => {
    const wanted = field.value.trim().toLowerCase();
    const rank = (i) => (folded[i] === wanted ? 0 : folded[i].startsWith(wanted) ? 1 : 2);
    const hits = wanted ? [...folded.keys()].filter((i) => folded[i].includes(wanted)) : [];
    hits.sort((a, b) => rank(a) - rank(b) || folded[a].length - folded[b].length || (folded[a] < folded[b] ? -1 : 1));
    shown = hits.slice(0, most);
    list.replaceChildren(...shown.map((i, k) => {
      const item = make("li", "");
      item.append(make("bdi", columns.name[i]));
      Object.assign(item, { id: "site-" + k });
      item.setAttribute("role", "option");
      item.addEventListener("mousedown", (event) => { event.preventDefault(); take(k); });
      return item;
    }));
    list.hidden = !shown.length;
    field.setAttribute("aria-expanded", String(shown.length > 0));
    point(shown.length ? 0 : -1);
    const more = hits.length > most ? `${number(hits.length)} clients match; the first ${most} are listed.` : "";
    found.replaceChildren(make("p", wanted && !hits.length ? "No client has this in its name." : more));
    mark(gains);
  };

  field.addEventListener("input", search);
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    const count = shown.length;
    if (event.key === "Escape") close();
    else if (event.key === "Enter") take(chosen);
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (!count) return;
      list.hidden = false;
      field.setAttribute("aria-expanded", "true");
      point((chosen + (event.key === "ArrowDown" ? 1 : count - 1)) % count);
    } else return;
    event.preventDefault();
  });
  byId("finder").hidden = false;
  byId("unscripted").hidden = true;
})();
