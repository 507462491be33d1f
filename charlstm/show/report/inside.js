"use strict";

// The section about the inside of the model: gates, time constants, and the reach of the gradient.

const GATE_NAMES = {
  i: "input gate i", f: "forget gate f", o: "output gate o", g: "candidate g (tanh)",
  r: "reset gate r", z: "update gate z", n: "candidate n (tanh)", h: "state h (tanh)",
};

function showInside() {
  const { inside } = data;
  say("inside-title", `Inside ${model.cell === "lstm" || model.cell === "rnn" ? "an" : "a"} ${CELLS[model.cell]}`);
  if (!inside) {
    for (const each of [...at("inside").children].slice(1)) each.hidden = true;
    return;
  }
  say("inside-note", `Measured while the model read ${figure(inside.chars)} ${data.unit}s of ${inside.what}.`);
  if (model.cell === "rnn") {
    say("gates-title", "How often the state is saturated");
    say("gates-note", "Each dot is a unit: how often its state is below −0.9 or above 0.9. An RNN has no gates.");
  } else {
    say("gates-note", "Each dot is a unit: how often its gate is almost closed (below 0.1) or open (above 0.9); for " +
      "tanh, below −0.9 or above 0.9. Dots near the origin are gates that stay in between; dots near the line hardly " +
      "ever do.");
  }
  for (const { layer, gate, low, high } of inside.gates) {
    const isTanh = "gnh".includes(gate);
    const place = element("div");
    const title = (model.L > 1 ? `layer ${layer + 1}: ` : "") + GATE_NAMES[gate];
    at("gates").append(element("div", {}, element("h4", {}, title), place));
    scatter(place, high.map((each, unit) => [each, low[unit], `unit ${unit + 1}`]), {
      label: `Saturation of the ${title}`, height: 230, kind: "smooth", xLabel: isTanh ? "> 0.9" : "open > 0.9",
      yLabel: isTanh ? "< −0.9" : "closed < 0.1",
    });
  }
  showConstants(inside);
  showReach(inside);
}

function showConstants({ keeps, constants }) {
  at("constants-part").hidden = !keeps;
  if (!keeps) return;
  const middle = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
  const said = constants.map((values, layer) => (model.L > 1 ? `layer ${layer + 1}: ` : "") + figure(middle(values)));
  say("constants-note", `A unit multiplies what it remembers by its ${GATE_NAMES[keeps]} at each step. After this many ` +
    `${data.unit}s, −1 / mean ln ${keeps}, 1/e of it is left. Median ${said.join(", ")}. The dashed line is the ` +
    `truncated-BPTT length of training, ${data.facts.seqLength}.`);
  constants.forEach((values, layer) => {
    const place = element("div");
    at("constants").append(place);
    histogram(place, values, {
      label: "Time constants of the units", height: 200, xLabel: `${data.unit}s`, mark: data.facts.seqLength,
      yLabel: model.L > 1 ? `units of layer ${layer + 1}` : "units",
    });
  });
}

function showReach({ reach }) {
  if (!reach || !(reach.h[0] > 0)) {
    say("reach-note", reach ? "There is no gradient." : "The text is too short to follow the gradient back.");
    return;
  }
  const { h, c, cut } = reach;
  const fraction = h[Math.min(h.length - 1, data.facts.seqLength)] / h[0];
  const without = cut && cut[Math.min(cut.length - 1, data.facts.seqLength)] / cut[0];
  const steps = Math.min(h.length - 1, data.facts.seqLength);
  const share = (value) =>
    value >= 1e-4 ? `${figure(100 * value, 2)} %` : value > 0 ? `about ${power(value)}` : "nothing";
  const why = cut === null ? "" : ` With the path through the cell state cut, ${share(without)} would be: that path is ` +
    "why an LSTM remembers where an RNN forgets.";
  say("reach-note", `The size of the gradient of one prediction's loss by the state k steps earlier. ${steps} steps back, ` +
    `${share(fraction)} of it is left.${why}`);
  const floor = Math.max(...h) * 1e-9;
  const visible = (k) => [h, c, cut].some((values) => values && values[k] >= floor);
  const end = h.reduce((last, _, k) => (visible(k) ? k : last), 1);
  const points = (values) => (values ?? []).map((value, k) => [k, value]).slice(0, end + 2);
  const series = [
    { name: "h", kind: "smooth", points: points(h) }, { name: "c", kind: "level", points: points(c) },
    { name: "h, path through c cut", kind: "held", points: points(cut) },
  ];
  lineChart(at("reach"), series, {
    label: "Gradient size against steps back", xLabel: "steps back", yLabel: "size of the gradient", height: 280,
    isLog: true, low: Math.max(floor, Math.min(...[...h, ...(cut ?? [])].filter((each) => each > 0))),
    high: 2 * Math.max(...h), marks: data.facts.seqLength <= end ? [{ kind: "mark", x: data.facts.seqLength }] : [],
  });
  const entries = [["smooth", "by h, all layers"]];
  if (c) entries.push(["level", "by c, from later steps"], ["held", "by h, with the path through c cut"]);
  if (data.facts.seqLength <= end) entries.push(["mark", `truncated-BPTT length ${data.facts.seqLength}`]);
  showKey("reach-key", entries);
}
