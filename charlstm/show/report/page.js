"use strict";

// What stands where on the page. `data` is what charlstm.runs.report.contents found; all text is set as text.

const data = JSON.parse(document.getElementById("data").textContent);
const model = data.model;
const isLive = model.weights !== "";
const CELLS = { lstm: "LSTM", lnlstm: "layer-normalised LSTM", gru: "GRU", rnn: "RNN" };
const at = (id) => document.getElementById(id);
const say = (id, text) => {
  at(id).textContent = text;
};

function showHeader() {
  const { facts, curves } = data;
  say("name", data.name);
  const layers = `${CELLS[model.cell]}, ${model.L} × ${model.H} units`;
  const said = [
    `${facts.text}: ${figure(facts.chars)} ${data.unit}s`, layers, `${figure(facts.parameters)} parameters`,
    `${figure(facts.iterations)} iterations, ${figure(facts.read)} ${data.unit}s read in ${figure(facts.seconds)} s`,
  ];
  if (facts.best !== null) said.push(`best held-out ${figure(facts.best, 4)} bits per ${data.unit}`);
  if (curves.baseline !== null) said.push(`baseline ${figure(curves.baseline, 4)}`);
  say("summary", said.join(" · "));
  at("mix").hidden = !facts.mix;
  if (facts.mix) say("mix", `${facts.mix}. The rest of this page, its sampler included, is ${facts.shown}.`);
  at("fault").hidden = !data.fault;
  if (data.fault) say("fault", `Without the training text this report has no baseline and no novelty: ${data.fault}.`);
}

/** Explain the lines of a chart. */
function showKey(id, entries) {
  at(id).replaceChildren(
    ...entries.flatMap(([kind, text]) => [element("span", {}, element("span", { class: `sign ${kind}` }), text), " "]),
  );
}

function showLearning() {
  const { raw, smooth, heldOut, rate, chars, seconds, baseline, guess } = data.curves;
  const bits = `bits per ${data.unit}`;
  const more = (x) => [
    ...(baseline === null ? [] : [`baseline ${figure(baseline, 4)}`]),
    `learning rate ${figure(nearest(rate, x)[1])}`,
    `${figure(nearest(chars, x)[1])} ${data.unit}s read, ${figure(nearest(seconds, x)[1])} s`,
  ];
  const best = heldOut.reduce((least, each) => (least === null || each[1] < least[1] ? each : least), null);
  const levels = [{ kind: "guess", y: guess }, ...(baseline === null ? [] : [{ kind: "level", y: baseline }])];
  const late = [...smooth, ...heldOut].filter(([x]) => x >= 0.03 * (smooth.at(-1)?.[0] ?? 0)).map(([, y]) => y);
  const low = Math.min(...late, ...(baseline === null ? [] : [baseline]));
  const high = Math.max(...late, ...(baseline === null ? [] : [baseline]));
  lineChart(at("loss"), [
    { name: "single iteration", kind: "raw", points: raw }, { name: "training", kind: "smooth", points: smooth },
    { name: "held-out", kind: "held", points: heldOut },
  ], {
    label: "Loss against iterations", xLabel: "iteration", yLabel: bits, height: 320, more,
    levels: levels.filter(({ y }) => y <= high), low: low - 0.08 * (high - low), high: high + 0.12 * (high - low),
    marks: best ? [{ kind: "held", x: best[0], y: best[1] }] : [],
  });
  lineChart(at("rate"), [{ name: "learning rate", kind: "smooth", points: rate }], {
    label: "Learning rate against iterations", xLabel: "iteration", yLabel: "learning rate", height: 130, low: 0,
  });
  const entries = [["raw", "single iterations"], ["smooth", "training, mean between reports"]];
  if (best) entries.push(["held", `held-out, best ${figure(best[1], 4)} at iteration ${figure(best[0])} (ring)`]);
  if (baseline !== null) entries.push(["level", `baseline: order-5 n-gram ${figure(baseline, 4)}`]);
  if (guess <= high) entries.push(["guess", `uniform guess ${figure(guess, 4)}`]);
  showKey("loss-key", entries);
  const last = heldOut.at(-1);
  const isWorse = best && last[1] > best[1] + 0.02;
  say("loss-note", !best ? "This run holds no text out, so overfitting cannot be seen: --validation 0.1 does."
    : isWorse ? `Held-out loss has risen by ${figure(last[1] - best[1], 2)} bits since its best point: the run overfits.`
    : "Held-out loss ends near its best point: no overfitting so far.");
}

function showSamples() {
  const slider = at("sample-slider");
  const { samples } = data;
  if (!samples.length) {
    slider.disabled = true;
    say("sample-text", "No samples were saved; --sample-every sets how often they are.");
    return;
  }
  slider.max = samples.length - 1;
  slider.oninput = () => {
    const { iteration, text } = samples[slider.value];
    say("sample-title", `iteration ${figure(iteration)}`);
    say("sample-text", printable(text));
  };
  slider.oninput();
}

/** A word as a shell takes it. */
function quoted(word) {
  return /^[\w.,/:=@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

function showSampler() {
  if (!isLive) {
    say("writing-note", `The model's weights are not in this report, so it cannot write here: ${model.missing}.`);
    return;
  }
  say("writing-note", "The model itself, with its weights, runs in this page. Nothing leaves your machine.");
  at("sampler").hidden = false;
  at("temperature").value = model.temperature;
  let isStopped = false;
  const options = () => ({
    temperature: Number(at("temperature").value), topP: Number(at("top-p").value), seed: Number(at("seed").value),
    length: Number(at("length").value),
  });
  const showCommand = () => {
    const { temperature, topP, seed, length } = options();
    const prime = at("prime").value ? ` --prime ${quoted(at("prime").value)}` : "";
    const words = `--temperature ${temperature} --top-p ${topP} --seed ${seed} --length ${length}`;
    say("written-command", `${data.sampling}${prime} ${words}`);
  };
  at("sampler").oninput = showCommand;
  showCommand();
  at("stop").onclick = () => {
    isStopped = true;
  };
  at("sampler").onsubmit = async (event) => {
    event.preventDefault();
    const chosen = options();
    if (!(chosen.topP > 0)) return say("written-note", "top-p: expected more than 0 and at most 1.");
    const prime = asRead(at("prime").value, model);
    const pieces = vocabularyOf(model).encode(prime);
    const lacking = new Set(pieces.filter(({ ids }) => ids === null).map(({ text }) => named(text)));
    if (lacking.size) return say("written-note", `The vocabulary lacks ${[...lacking].slice(0, 5).join(", ")}.`);
    [isStopped, at("write").disabled, at("stop").disabled] = [false, true, false];
    const texts = writing(model, pieces.flatMap(({ ids }) => ids), chosen);
    const place = at("written");
    place.textContent = printable(prime);
    const [begin, count] = [performance.now(), { of: 0 }];
    try {
      await inSlices(() => {
        const { value, done } = texts.next();
        place.append(printable(value));
        if (!done) count.of++;
        return !done;
      }, () => isStopped);
      const speed = (1000 * count.of) / Math.max(1, performance.now() - begin);
      say("written-note", `${figure(count.of)} ${data.unit}s, ${figure(Math.round(speed))} per second.`);
    } catch (error) {
      say("written-note", error.message);
    } finally {
      [at("write").disabled, at("stop").disabled] = [false, true];
    }
  };
}

/** The passage that both the units and the surprise show. */
const reader = { passage: storedPassage(data), chosen: 0 };

function showUnits() {
  const width = model.L * model.H;
  const what = { lstm: "tanh(c), the cell state", lnlstm: "tanh of the normalised cell state" }[model.cell] ?? "h, the state";
  say("units-note", `Each character is coloured by ${what}, of one unit after reading it. The units named here go most ` +
    `with something in the text (Pearson's correlation over ${figure(data.inside?.chars ?? 0)} ${data.unit}s of ${data.passage.what}). Units count from 1.`);
  at("layer").max = model.L;
  at("unit").max = model.H;
  at("layer-label").hidden = model.L === 1;
  const value = (character) => reader.passage.units[character.at * width + reader.chosen] / 127;
  const colour = (character) => {
    const u = character.bits === null ? 0 : value(character);
    return `rgba(var(${u < 0 ? "--low" : "--high"}), ${Math.abs(u).toFixed(3)})`;
  };
  const buttons = [];
  const choose = (layer, unit) => {
    reader.chosen = (((layer * model.H + unit) % width) + width) % width;
    at("layer").value = Math.floor(reader.chosen / model.H) + 1;
    at("unit").value = (reader.chosen % model.H) + 1;
    for (const [button, place] of buttons) button.setAttribute("aria-pressed", place === reader.chosen);
    reader.showUnits();
  };
  reader.showUnits = () => showCharacters(at("activations"), reader.passage.characters, colour, (character) =>
    character.bits === null ? `${named(character.text)}: not in the vocabulary` : `${named(character.text)}: ${figure(value(character), 2)}`,
  at("activation-below"));
  for (const { feature, units } of data.inside?.telling ?? []) {
    const row = element("div", { class: "feature" }, element("b", {}, feature));
    for (const [layer, unit, r] of units) {
      const name = model.L > 1 ? `layer ${layer + 1}, unit ${unit + 1}` : `unit ${unit + 1}`;
      const button = element("button", { type: "button" }, `${name}: ${r < 0 ? "−" : "+"}${Math.abs(r).toFixed(2)}`);
      button.onclick = () => choose(layer, unit);
      buttons.push([button, layer * model.H + unit]);
      row.append(button);
    }
    if (!units.length) row.append(element("span", {}, "no unit goes with it"));
    at("telling").append(row);
  }
  const typed = () => {
    const [layer, unit] = [Number(at("layer").value), Number(at("unit").value)];
    const fits = (value, most) => Number.isInteger(value) && value >= 1 && value <= most;
    if (fits(layer, model.L) && fits(unit, model.H)) choose(layer - 1, unit - 1);
  };
  at("layer").onchange = at("unit").onchange = typed;
  at("unit-before").onclick = () => choose(0, reader.chosen - 1);
  at("unit-after").onclick = () => choose(0, reader.chosen + 1);
  const told = (data.inside?.telling ?? []).flatMap(({ units }) => units);
  const first = told.reduce((most, each) => (Math.abs(each[2]) > Math.abs(most[2]) ? each : most), [0, 0, 0]);
  choose(first[0], first[1]);
}

function showSurprise() {
  const unit = data.unit === "byte" ? "bits per byte" : "bits per character";
  reader.showSurprise = (what) => {
    const { characters, lacking, ids } = reader.passage;
    const bits = characters.reduce((sum, each) => sum + (each.bits ?? 0), 0);
    const left = lacking ? ` ${figure(lacking)} characters that the vocabulary lacks are left out.` : "";
    say("surprise-note", `${what}: ${figure(ids ? bits / ids : 0, 4)} ${unit}. The stronger the colour, the less the ` +
      `model expected the character; 8 bits and more are full.${left}`);
    showCharacters(at("surprises"), characters, ({ bits }) => `rgba(var(--high), ${Math.min(0.9, (bits ?? 0) / 9).toFixed(3)})`,
      ({ text, bits }) => bits === null ? `${named(text)}: not in the vocabulary`
        : `${named(text)}: ${bits.toFixed(2)} bits, probability ${figure(2 ** -bits, 2)}`, at("surprise-below"));
  };
  const first = `A passage of ${data.passage.what}`;
  reader.showSurprise(first);
  if (!isLive) {
    at("surprise").append(element("p", { class: "note" }, `Other passages cannot be read here: ${model.missing}.`));
    return;
  }
  at("paste").hidden = false;
  let turn = 0;
  at("paste").onsubmit = async (event) => {
    event.preventDefault();
    const own = ++turn;
    const text = at("pasted").value;
    if (!text) return say("surprise-note", "Paste or type a passage first.");
    say("surprise-note", "Reading …");
    const found = await readPassage(model, text, () => own !== turn);
    if (own !== turn) return undefined;
    reader.passage = found;
    const isCut = found.characters.length === MOST_PASTED ? `, its first ${figure(MOST_PASTED)} characters` : "";
    reader.showSurprise(`Your passage${isCut}`);
    return reader.showUnits();
  };
  at("restore").onclick = () => {
    turn++;
    reader.passage = storedPassage(data);
    reader.showSurprise(first);
    reader.showUnits();
  };
}

function tableRow(name, values, className = "") {
  return element("tr", className ? { class: className } : {}, ...values.map((each) => element(name, {}, each)));
}

function showCopying() {
  const { fault, text, least, rows, longest } = data.novelty;
  if (fault) {
    say("copying-note", `Not known: ${fault}.`);
    return;
  }
  const percent = (value) => (value === undefined ? "–" : `${Math.round(100 * value)} %`);
  const lengths = [...new Set(rows.flatMap((row) => Object.keys(row.new)))].map(Number).sort((a, b) => a - b);
  say("copying-note", `Each saved sample, compared with ${text}: its longest run of characters that the training text ` +
    `has, the share of it in such runs of at least ${least}, and of its sequences of k characters those that are new. ` +
    "Any text shares some phrases with another: the held-out row shows how many.");
  at("copying-table").append(
    tableRow("th", ["sample", "characters", "longest run", "copied", ...lengths.map((k) => `new ${k}`)]),
    ...rows.map((row) => tableRow("td", [
      row.iteration === null ? "held-out" : `iteration ${figure(row.iteration)}`, figure(row.chars), figure(row.longest),
      percent(row.copied), ...lengths.map((k) => percent(row.new[k])),
    ], row.iteration === null ? "other" : "")),
  );
  at("longest").append(
    element("p", { class: "note" }, `The longest run that ${text} has:`),
    element("pre", { class: "text" }, printable(longest)),
  );
}

function showRepeat() {
  say("command", data.command);
  at("options").append(
    tableRow("th", ["option", "value", "preset has"]),
    ...data.options.map((row) => tableRow("td", row, row[2] ? "changed" : "")),
  );
  const flat = (value) => (Array.isArray(value) ? value.join(" ") : typeof value === "object" && value !== null
    ? Object.entries(value).map(([name, each]) => `${name} ${each}`).join(", ") : String(value));
  at("environment").append(...Object.entries(data.environment).map(([name, value]) => tableRow("td", [name, flat(value)])));
}

for (const part of [
  showHeader, showLearning, showSamples, showSampler, showUnits, showSurprise, showInside, showCopying, showRepeat,
]) part();
