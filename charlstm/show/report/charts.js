"use strict";

// Charts as SVG, drawn anew when their place changes its width; values are shown under the pointer or the arrow keys.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 46, right: 12, top: 22, bottom: 36 };

/** An HTML element with attributes and children, of which strings become text. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawing(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

/** A number as people read it: 12,345 or 0.00321. */
function figure(value, digits = 3) {
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e9)) return value.toExponential(1);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(digits)));
}

/** A power of ten: 10⁻⁴, or as a plain number near 1. */
function power(value) {
  const exponent = Math.round(Math.log10(value));
  if (Math.abs(exponent) < 3) return figure(value);
  return `10${Array.from(String(exponent), (each) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[each] ?? "⁻").join("")}`;
}

/** Round numbers from low to high, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(Number((k * step).toPrecision(12)));
  return found;
}

/** Powers of ten from low to high, at most `count` of them. */
function powers(low, high, count) {
  const first = Math.ceil(Math.log10(low) - 1e-9);
  const last = Math.floor(Math.log10(high) + 1e-9);
  const every = Math.max(1, Math.ceil((last - first + 1) / count));
  const found = [];
  for (let k = first; k <= last; k += every) found.push(10 ** k);
  return found;
}

/** A scale from values to pixels: { at, ticks }. */
function scale(low, high, from, to, count, isLog) {
  if (!(high > low)) [low, high] = isLog ? [low / 2, low * 2] : [low - 0.5, low + 0.5];
  const place = isLog ? Math.log : (value) => value;
  const [a, b] = [place(low), place(high)];
  return {
    at: (value) => from + ((place(value) - a) / (b - a)) * (to - from),
    ticks: isLog ? powers(low, high, count) : ticks(low, high, count),
    format: isLog ? power : figure,
  };
}

/** Draw into a place now and whenever its width changes; `draw` gets the SVG element, its width and its height. */
function kept(place, height, label, draw) {
  place.classList.add("chart");
  const svg = drawing("svg", { role: "img", "aria-label": label, height });
  const tip = element("div", { class: "tip", hidden: "" });
  place.replaceChildren(svg, tip);
  let width = 0;
  const again = () => {
    const now = Math.floor(place.clientWidth);
    if (now < 50 || now === width) return;
    width = now;
    svg.setAttribute("width", width);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    tip.hidden = true;
    draw(svg, width, height, (x, y, lines) => show(tip, width, x, y, lines));
  };
  new ResizeObserver(again).observe(place);
  again();
}

/** Show lines of text beside a point, or hide them if there are none. */
function show(tip, width, x, y, lines) {
  tip.hidden = !lines;
  if (!lines) return;
  tip.replaceChildren(...lines.map((line) => element("div", {}, line)));
  tip.style.top = `${Math.max(0, y)}px`;
  const isRight = x > width / 2;
  tip.style.left = isRight ? "auto" : `${x + 12}px`;
  tip.style.right = isRight ? `${width - x + 12}px` : "auto";
}

/** A part of a drawing that shows nothing outside a rectangle; places in it are those of the whole drawing. */
function clipped(svg, x, y, width, height) {
  const part = drawing("svg", { x, y, width, height, viewBox: `${x} ${y} ${width} ${height}` });
  svg.append(part);
  return part;
}

/** Draw the axes with their labels. */
function axes(svg, width, height, x, y, xLabel, yLabel) {
  const bottom = height - MARGIN.bottom;
  for (const value of y.ticks) {
    const at = y.at(value);
    svg.append(drawing("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at }));
    svg.append(drawing("text", { class: "tick", x: MARGIN.left - 6, y: at + 4, "text-anchor": "end" }, y.format(value)));
  }
  for (const value of x.ticks) {
    const at = x.at(value);
    svg.append(drawing("line", { class: "grid", x1: at, x2: at, y1: bottom, y2: bottom + 4 }));
    const anchor = at > width - 30 ? "end" : "middle";
    svg.append(drawing("text", { class: "tick", x: at, y: bottom + 16, "text-anchor": anchor }, figure(value)));
  }
  svg.append(drawing("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom }));
  svg.append(drawing("text", { class: "label", x: width - MARGIN.right, y: height - 4, "text-anchor": "end" }, xLabel));
  svg.append(drawing("text", { class: "label", x: 0, y: 12 }, yLabel));
}

/**
 * Lines over a common x axis.
 *
 * series: [{ name, kind, points: [[x, y], ...] }], where kind is the class of the line; chart: { label, xLabel, yLabel,
 * height, isLog, low, high, levels: [{ name, kind, y }], marks: [{ kind, x, y, text }], more: x => lines of text }.
 */
function lineChart(place, series, chart) {
  const drawn = series
    .map((each) => ({ ...each, points: each.points.filter(([, y]) => !chart.isLog || y > 0) }))
    .filter((each) => each.points.length);
  const xs = [...new Set(drawn.flatMap((each) => each.points.map(([x]) => x)))].sort((a, b) => a - b);
  if (!xs.length) {
    place.replaceChildren(element("p", { class: "note" }, "Nothing has been recorded yet."));
    return;
  }
  const ys = drawn.flatMap((each) => each.points.map(([, y]) => y)).concat((chart.levels ?? []).map((each) => each.y));
  const low = chart.low ?? Math.min(...ys);
  const high = chart.high ?? Math.max(...ys);
  kept(place, chart.height, chart.label, (svg, width, height, tell) => {
    const bottom = height - MARGIN.bottom;
    const x = scale(xs[0], xs[xs.length - 1], MARGIN.left, width - MARGIN.right, width / 110);
    const y = scale(low, high, bottom, MARGIN.top, height / 60, chart.isLog);
    axes(svg, width, height, x, y, chart.xLabel, chart.yLabel);
    const plot = clipped(svg, MARGIN.left, MARGIN.top - 2, width - MARGIN.left, bottom - MARGIN.top + 2);
    for (const each of chart.levels ?? []) {
      const at = y.at(each.y);
      plot.append(drawing("line", { class: `line ${each.kind}`, x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at }));
    }
    for (const each of drawn) {
      const path = each.points.map((point) => `${x.at(point[0]).toFixed(1)},${y.at(point[1]).toFixed(1)}`);
      plot.append(drawing("polyline", { class: `line ${each.kind}`, points: path.join(" ") }));
      if (each.points.length <= 30) {
        for (const point of each.points) {
          plot.append(drawing("circle", { class: `dot ${each.kind}`, cx: x.at(point[0]), cy: y.at(point[1]), r: 3 }));
        }
      }
    }
    for (const mark of chart.marks ?? []) {
      const at = x.at(mark.x);
      if (mark.y === undefined) {
        svg.append(drawing("line", { class: `line ${mark.kind}`, x1: at, x2: at, y1: MARGIN.top, y2: bottom }));
      } else {
        svg.append(drawing("circle", { class: `ring ${mark.kind}`, cx: at, cy: y.at(mark.y), r: 6 }));
      }
    }
    const cursor = drawing("line", { class: "cursor", y1: MARGIN.top, y2: bottom, visibility: "hidden" });
    svg.append(cursor);
    const point = (at) => {
      cursor.setAttribute("visibility", at === null ? "hidden" : "visible");
      if (at === null) return tell(0, 0, null);
      for (const end of ["x1", "x2"]) cursor.setAttribute(end, x.at(at));
      const values = drawn.map((each) => `${each.name} ${figure(nearest(each.points, at)[1], 4)}`);
      tell(x.at(at), MARGIN.top, [`${chart.xLabel} ${figure(at)}`, ...values, ...(chart.more?.(at) ?? [])]);
    };
    const places = xs.map((each) => [x.at(each), each]);
    followed(svg, xs, (pixel) => nearest(places, pixel)[1], point);
  });
}

/** Of points sorted by x, the one nearest to an x. */
function nearest(points, x) {
  let [low, high] = [0, points.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle + 1;
    else high = middle;
  }
  return low > 0 && x - points[low - 1][0] < points[low][0] - x ? points[low - 1] : points[low];
}

/** Call `point` with the x under the pointer, with the next one on the arrow keys, and with null when it leaves. */
function followed(svg, xs, xUnder, point) {
  let at = -1;
  svg.setAttribute("tabindex", "0");
  svg.onpointermove = svg.onpointerdown = (event) => {
    const x = xUnder(event.clientX - svg.getBoundingClientRect().left);
    at = xs.indexOf(x);
    point(x);
  };
  svg.onpointerleave = svg.onblur = () => point(null);
  svg.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: 20, PageDown: -20 }[event.key];
    if (!step) return;
    event.preventDefault();
    at = Math.min(Math.max(at + step, 0), xs.length - 1);
    point(xs[at]);
  };
}

/** Points in the unit square, each [x, y, text], with the nearest one named under the pointer. */
function scatter(place, points, chart) {
  kept(place, chart.height, chart.label, (svg, width, height, tell) => {
    const x = scale(0, 1, MARGIN.left, width - MARGIN.right, 4);
    const y = scale(0, 1, height - MARGIN.bottom, MARGIN.top, 4);
    axes(svg, width, height, x, y, chart.xLabel, chart.yLabel);
    svg.append(drawing("line", { class: "grid", x1: x.at(0), y1: y.at(1), x2: x.at(1), y2: y.at(0) }));
    for (const [a, b] of points) svg.append(drawing("circle", { class: `dot ${chart.kind}`, cx: x.at(a), cy: y.at(b), r: 3 }));
    const ring = drawing("circle", { class: "ring", r: 6, visibility: "hidden" });
    svg.append(ring);
    svg.onpointermove = (event) => {
      const box = svg.getBoundingClientRect();
      const [u, v] = [event.clientX - box.left, event.clientY - box.top];
      const far = ([a, b]) => (x.at(a) - u) ** 2 + (y.at(b) - v) ** 2;
      const found = points.reduce((best, each) => (far(each) < far(best) ? each : best));
      ring.setAttribute("visibility", "visible");
      ring.setAttribute("cx", x.at(found[0]));
      ring.setAttribute("cy", y.at(found[1]));
      tell(u, v - 20, [found[2], `${chart.xLabel} ${figure(found[0])}`, `${chart.yLabel} ${figure(found[1])}`]);
    };
    svg.onpointerleave = () => {
      ring.setAttribute("visibility", "hidden");
      tell(0, 0, null);
    };
  });
}

/** How many of some positive values lie in each of a few stretches of a logarithmic axis. */
function histogram(place, values, chart) {
  const per = 3; // bars in a power of two
  const stretch = (value) => Math.floor(per * Math.log2(value));
  const counts = new Map();
  for (const value of values) counts.set(stretch(value), (counts.get(stretch(value)) ?? 0) + 1);
  const ends = [...counts.keys(), stretch(chart.mark)];
  const [first, last] = [Math.min(...ends), Math.max(...ends) + 1];
  kept(place, chart.height, chart.label, (svg, width, height, tell) => {
    const bottom = height - MARGIN.bottom;
    const x = scale(2 ** (first / per), 2 ** (last / per), MARGIN.left, width - MARGIN.right, 8, true);
    for (let power = Math.ceil(first / per), found = []; power <= last / per; power++) {
      found.push(2 ** power);
      x.ticks = found.filter((_, k) => k % Math.ceil(found.length / (width / 60)) === 0);
    }
    const y = scale(0, Math.max(...counts.values()), bottom, MARGIN.top, 3);
    axes(svg, width, height, x, y, chart.xLabel, chart.yLabel);
    for (const [k, count] of counts) {
      const [from, to] = [x.at(2 ** (k / per)), x.at(2 ** ((k + 1) / per))];
      const bar = drawing("rect", { class: "bar", x: from + 1, width: Math.max(1, to - from - 2), y: y.at(count), height: bottom - y.at(count) });
      const said = `${figure(2 ** (k / per))} to ${figure(2 ** ((k + 1) / per))} characters: ${count} unit${count === 1 ? "" : "s"}`;
      bar.onpointerenter = () => tell(from, y.at(count) - 10, [said]);
      bar.onpointerleave = () => tell(0, 0, null);
      svg.append(bar);
    }
    const at = x.at(chart.mark);
    svg.append(drawing("line", { class: "line mark", x1: at, x2: at, y1: MARGIN.top, y2: bottom }));
  });
}
