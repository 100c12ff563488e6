// Everything that the records say is put in as text, never as markup: it is others' text.
"use strict";
(() => {
  const by = (id) => document.getElementById(id);
  const { about, ends } = JSON.parse(by("ends").textContent);
  const INITIATORS = [
    ["user", "its user", "●"],
    ["admin", "an administrator", "■"],
    ["crash", "something broke", "✕"],
    ["unknown", "not known", "◆"],
  ];
  const known = new Set(INITIATORS.map(([name]) => name));
  const initiatorOf = (end) => (known.has(end.initiator) ? end.initiator : "unknown");
  const markOf = new Map(INITIATORS.map(([name, , mark]) => [name, mark]));
  const PAGE = 200;
  const LINE = 18;
  const element = (tag, text, ...classes) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (classes.length) made.classList.add(...classes);
    return made;
  };

  // The latest first; what has no time that can be read comes last.
  const order = (end) => (end.time === null ? -Infinity : end.time);
  ends.sort((a, b) => order(b) - order(a));
  const times = ends.map((end) => end.time).filter((time) => time !== null);
  const latest = times.length ? times[0] : 0;
  const earliest = times.length ? times[times.length - 1] : 0;
  const count = (values) => {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
    return [...counts].sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1));
  };
  const causes = count(ends.map((end) => end.cause));
  const nodes = count(ends.map((end) => end.node).filter((node) => node !== null));
  const instances = count(ends.map((end) => end.instance));
  const many = (number, one, more) => `${number.toLocaleString("en")} ${number === 1 ? one : more}`;

  by("about").textContent =
    `${many(ends.length, "end", "ends")} of ${many(instances.length, "instance", "instances")}` +
    (nodes.length ? ` on ${many(nodes.length, "node", "nodes")}` : "") +
    (times.length ? `, from ${show(earliest)} to ${show(latest)} UTC. ` : ". ") +
    about;
  document.body.classList.toggle("one-node", nodes.length < 2);
  for (const [cause, number] of causes) {
    const option = element("option", `${cause} (${number})`);
    option.value = cause;
    by("cause").append(option);
  }
  const suggest = (list, names) => {
    for (const [name] of names.slice(0, 1000)) list.append(element("option", name));
  };
  suggest(by("nodes"), nodes);
  suggest(by("instances"), instances);
  const boxes = new Map();
  for (const [name, words, mark] of INITIATORS) {
    const label = element("label");
    const box = element("input");
    box.type = "checkbox";
    box.defaultChecked = box.checked = true;
    box.id = `by-${name}`;
    const text = element("span", words, "by", name);
    text.dataset.mark = mark;
    label.append(box, text);
    by("initiators").append(label);
    boxes.set(name, box);
  }

  // What is shown: the ends that pass the filters, in lines for the timeline.
  let shown = [];
  let lines = [];
  let span = [0, 1];
  let chosen = null;
  let rowsShown = PAGE;

  function filter() {
    const time = (id) => {
      const value = by(id).value;
      return value === "" ? null : Date.parse(`${value}Z`);
    };
    const [from, to] = [time("from"), time("to")];
    const cause = by("cause").value;
    const [node, instance] = [by("node").value, by("instance").value];
    shown = ends.filter(
      (end) =>
        boxes.get(initiatorOf(end)).checked &&
        (cause === "" || end.cause === cause) &&
        (node === "" || (end.node !== null && end.node.includes(node))) &&
        end.instance.includes(instance) &&
        (from === null || (end.time !== null && end.time >= from)) &&
        (to === null || (end.time !== null && end.time <= to)),
    );
    const width = Math.max(latest - earliest, 1000);
    span = [from ?? earliest - width * 0.02, to ?? latest + width * 0.02];
    if (span[1] <= span[0]) span[1] = span[0] + 1000;
    const of = by("lines").value;
    const grouped = new Map();
    for (const end of shown) {
      if (end.time === null) continue;
      const name = end[of] ?? "(no node)";
      let line = grouped.get(name);
      if (!line) grouped.set(name, (line = { name, ends: [], crashes: 0 }));
      line.ends.push(end);
      if (end.initiator === "crash") line.crashes += 1;
    }
    lines = [...grouped.values()].sort(
      (a, b) => b.crashes - a.crashes || b.ends.length - a.ends.length || (a.name < b.name ? -1 : 1),
    );
    by("height").style.height = `${Math.max(0, lines.length * LINE + AXIS - by("timeline").clientHeight)}px`;
    by("count").textContent =
      shown.length === ends.length ? `All ${many(ends.length, "end", "ends")}` : `${shown.length.toLocaleString("en")} of ${many(ends.length, "end", "ends")}`;
    rowsShown = PAGE;
    if (chosen && !shown.includes(chosen)) chosen = null;
    list();
    draw();
  }

  // The table.
  function list() {
    by("rows").replaceChildren(...shown.slice(0, rowsShown).map(row));
    offerMore();
  }

  function offerMore() {
    const left = shown.length - rowsShown;
    by("more").hidden = left <= 0;
    by("more").textContent = `Show ${Math.min(PAGE, left)} more of ${left.toLocaleString("en")}`;
  }

  function row(end) {
    const made = element("tr");
    const button = element("button", show(end.time, end.said));
    button.type = "button";
    const first = element("td");
    first.append(button);
    const initiator = element("td", end.initiator, "by", initiatorOf(end));
    initiator.dataset.mark = markOf.get(initiatorOf(end));
    made.append(first, element("td", end.node ?? "", "of-node"), element("td", end.instance), element("td", end.cause), initiator);
    made.end = end;
    made.setAttribute("aria-selected", String(end === chosen));
    made.addEventListener("click", () => choose(end));
    return made;
  }

  by("more").addEventListener("click", () => {
    const first = rowsShown;
    rowsShown += PAGE;
    by("rows").append(...shown.slice(first, rowsShown).map(row));
    offerMore();
    by("rows").children[first]?.querySelector("button").focus();
  });

  // The story of one end.
  function choose(end) {
    chosen = end;
    for (const made of by("rows").children) made.setAttribute("aria-selected", String(made.end === chosen));
    const story = by("story");
    story.replaceChildren(element("h2", end.node === null ? end.instance : `${end.instance} on ${end.node}`));
    story.append(element("p", end.story), element("p", `It ended at ${show(end.time, end.said)} UTC. The evidence, with its time relative to that:`, "hint"));
    const table = element("table");
    for (const piece of end.evidence) {
      const made = element("tr");
      made.append(element("td", piece.at), element("td", piece.source), element("td", piece.what));
      table.append(made);
    }
    story.append(table);
    if (end.omitted > 0) story.append(element("p", `${many(end.omitted, "more piece", "more pieces")}, after the first few, were not kept.`, "hint"));
    if (end.command !== null) story.append(element("p", `The sender's command line: ${end.command}`));
    draw();
  }

  // The timeline: only the lines that are in view are drawn.
  const AXIS = 22;
  const NAMES = 190;
  const canvas = by("picture");
  const pen = canvas.getContext("2d");
  const timeline = by("timeline");
  let drag = null;

  const x = (time) => NAMES + ((time - span[0]) / (span[1] - span[0])) * (canvas.clientWidth - NAMES - 10);
  const timeAt = (at) => span[0] + ((at - NAMES) / (canvas.clientWidth - NAMES - 10)) * (span[1] - span[0]);

  function draw() {
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    pen.lineWidth = 1;
    for (const [time, text] of ticks(width)) {
      pen.strokeStyle = colour("line");
      pen.beginPath();
      pen.moveTo(x(time), 0);
      pen.lineTo(x(time), height - AXIS);
      pen.stroke();
      pen.fillStyle = colour("faint");
      pen.textAlign = x(time) > width - 45 ? "right" : "center";
      pen.fillText(text, Math.min(x(time), width - 4), height - AXIS / 2);
    }
    const top = timeline.scrollTop;
    const first = Math.floor(top / LINE);
    const last = Math.min(lines.length, Math.ceil((top + height - AXIS) / LINE));
    const colours = new Map(INITIATORS.map(([name]) => [name, colour(name)]));
    pen.save();
    pen.beginPath();
    pen.rect(0, 0, width, height - AXIS);
    pen.clip();
    for (let index = first; index < last; index += 1) {
      const middle = index * LINE - top + LINE / 2;
      pen.fillStyle = colour("ink");
      pen.textAlign = "left";
      pen.fillText(cut(lines[index].name), 8, middle);
      for (const end of lines[index].ends) {
        const initiator = initiatorOf(end);
        pen.fillStyle = pen.strokeStyle = colours.get(initiator);
        mark(initiator, x(end.time), middle);
        if (end === chosen) {
          pen.strokeStyle = colour("ink");
          pen.beginPath();
          pen.arc(x(end.time), middle, 8, 0, 7);
          pen.stroke();
        }
      }
    }
    pen.restore();
    if (drag && drag.to !== drag.from) {
      pen.fillStyle = colour("ink");
      pen.globalAlpha = 0.12;
      pen.fillRect(Math.min(drag.from, drag.to), 0, Math.abs(drag.to - drag.from), height - AXIS);
      pen.globalAlpha = 1;
    }
  }

  function mark(initiator, at, middle) {
    pen.beginPath();
    switch (initiator) {
      case "user":
        pen.arc(at, middle, 4, 0, 7);
        pen.fill();
        break;
      case "admin":
        pen.fillRect(at - 3.5, middle - 3.5, 7, 7);
        break;
      case "crash":
        pen.lineWidth = 2.5;
        pen.moveTo(at - 4, middle - 4);
        pen.lineTo(at + 4, middle + 4);
        pen.moveTo(at + 4, middle - 4);
        pen.lineTo(at - 4, middle + 4);
        pen.stroke();
        pen.lineWidth = 1;
        break;
      default:
        pen.moveTo(at, middle - 5);
        pen.lineTo(at + 5, middle);
        pen.lineTo(at, middle + 5);
        pen.lineTo(at - 5, middle);
        pen.fill();
    }
  }

  const cuts = new Map();
  function cut(name) {
    if (!cuts.has(name)) {
      let text = name.slice(0, 60);
      while (text.length > 1 && pen.measureText(text).width > NAMES - 16) text = `${text.slice(0, -2)}…`;
      if (cuts.size > 5000) cuts.clear();
      cuts.set(name, text);
    }
    return cuts.get(name);
  }

  // Round times, no more of them than have room.
  function ticks(width) {
    const SECOND = 1000, MINUTE = 60 * SECOND, HOUR = 60 * MINUTE, DAY = 24 * HOUR;
    const steps = [SECOND, 5 * SECOND, 15 * SECOND, MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 28 * DAY, 91 * DAY, 365 * DAY];
    const room = Math.max(1, Math.floor((width - NAMES) / 110));
    const step = steps.find((it) => (span[1] - span[0]) / it <= room) ?? (span[1] - span[0]) / room;
    const found = [];
    for (let time = Math.ceil(span[0] / step) * step; time <= span[1]; time += step) {
      const text = show(time);
      found.push([time, step >= DAY ? text.slice(0, 10) : step >= MINUTE ? text.slice(5, 16) : text.slice(11)]);
    }
    return found;
  }

  function show(time, otherwise = "") {
    if (time === null) return otherwise === "" ? "time not known" : otherwise;
    const date = new Date(time);
    return Number.isNaN(date.getTime()) ? otherwise : date.toISOString().slice(0, 19).replace("T", " ");
  }

  function nearest(event) {
    const line = lines[Math.floor((event.offsetY + timeline.scrollTop) / LINE)];
    if (!line || event.offsetY > canvas.clientHeight - AXIS) return null;
    let best = null;
    for (const end of line.ends) {
      const distance = Math.abs(x(end.time) - event.offsetX);
      if (distance <= 8 && (best === null || distance < best.distance)) best = { end, distance };
    }
    return best && best.end;
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.offsetX < NAMES) return;
    drag = { from: event.offsetX, to: event.offsetX };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag) {
      drag.to = event.offsetX;
      draw();
    } else {
      const end = nearest(event);
      canvas.title = end ? `${show(end.time)}  ${end.instance}: ${end.cause}` : "";
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    const dragged = drag;
    drag = null;
    if (dragged && Math.abs(dragged.to - dragged.from) > 5) {
      const [from, to] = [dragged.from, dragged.to].map(timeAt).sort((a, b) => a - b);
      const value = (time) => new Date(time).toISOString().slice(0, 19);
      by("from").value = value(from);
      by("to").value = value(Math.max(to, from + 1000));
      filter();
      return;
    }
    const end = nearest(event);
    if (end) choose(end);
    else draw();
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: 1, ArrowRight: -1, ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (step === undefined || !shown.length) return;
    event.preventDefault();
    const at = chosen ? shown.indexOf(chosen) + step : 0;
    const end = shown[Math.min(Math.max(at, 0), shown.length - 1)];
    const line = lines.findIndex((it) => it.ends.includes(end));
    if (line * LINE < timeline.scrollTop || (line + 1) * LINE > timeline.scrollTop + timeline.clientHeight - AXIS)
      timeline.scrollTop = line * LINE - timeline.clientHeight / 2;
    choose(end);
  });
  timeline.addEventListener("scroll", draw, { passive: true });
  window.addEventListener("resize", filter);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  by("filters").addEventListener("input", filter);
  by("filters").addEventListener("submit", (event) => event.preventDefault());
  // The fields have their values again only after the event.
  by("filters").addEventListener("reset", () => setTimeout(filter));
  filter();
})();
