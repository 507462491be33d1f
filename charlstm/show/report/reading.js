"use strict";

// A passage that the model reads: its characters, what its units remember, and how surprised it is.

const MOST_PASTED = 5000; // characters
const SLICE = 12; // milliseconds of work between two pictures

/** Call `step` until it returns false, in slices, so that the page stays alive; resolves when done or stopped. */
function inSlices(step, isStopped = () => false) {
  return new Promise((resolve, reject) => {
    const slice = () => {
      const begin = performance.now();
      try {
        while (!isStopped()) {
          if (!step()) return resolve();
          if (performance.now() - begin > SLICE) return setTimeout(slice, 0);
        }
      } catch (error) {
        return reject(error);
      }
      return resolve();
    };
    slice();
  });
}

/** The passage that is stored in the report. */
function storedPassage(data) {
  const { model, passage } = data;
  const decode = vocabularyOf(model).decoder();
  const characters = [];
  let bits = 0;
  passage.ids.forEach((id, k) => {
    const text = decode(id) + (k === passage.ids.length - 1 ? decode() : "");
    bits += passage.bits[k];
    if (text) {
      characters.push({ text, bits, at: k });
      bits = 0;
    }
  });
  return { characters, units: new Int8Array(bytesOf(passage.units).buffer), lacking: 0, ids: passage.ids.length };
}

/** Read any text: its characters with their surprise in bits, null for those that the vocabulary lacks. */
async function readPassage(model, text, isStopped) {
  const pieces = vocabularyOf(model).encode(asRead(text, model)).slice(0, MOST_PASTED);
  const total = pieces.reduce((sum, { ids }) => sum + (ids ? ids.length : 0), 0);
  const width = model.L * model.H;
  const units = new Int8Array(total * width);
  const network = new Network(model);
  for (const id of model.begin) network.read(id);
  const characters = [];
  let [at, k] = [0, 0];
  await inSlices(() => {
    if (k === pieces.length) return false;
    const { text, ids } = pieces[k++];
    let bits = ids ? 0 : null;
    for (const id of ids ?? []) {
      bits += surprise(network.logits(), id);
      network.read(id);
      network.remembered(units, at++ * width);
    }
    characters.push({ text, bits, at: at - 1 });
    return true;
  }, isStopped);
  return { characters, units, lacking: characters.filter(({ bits }) => bits === null).length, ids: total };
}

/** A character as it is shown: control characters as pictures, line breaks visible. */
function shown(character) {
  const code = character.codePointAt(0);
  if (character === "\n") return "↵\n";
  if (character === "\t") return "→\t";
  if (code < 32) return String.fromCodePoint(0x2400 + code);
  if (code === 127) return "\u2421";
  if ((code >= 0xd800 && code <= 0xdfff) || (code >= 0x80 && code < 0xa0)) return "\ufffd";
  return character;
}

/** A text as it is shown, with plain line breaks and tabs. */
function printable(text) {
  return Array.from(text, (each) => (each === "\n" || each === "\t" ? each : shown(each))).join("");
}

/** A character in words, for a tooltip. */
function named(character) {
  const names = { "\n": "line break", "\t": "tab", " ": "space" };
  return names[character] ?? `“${shown(character)}”`;
}

/** Show characters, each in a span whose background `colour` gives; `tell` says what stands below them. */
function showCharacters(place, characters, colour, tell, below) {
  place.replaceChildren();
  characters.forEach((character, k) => {
    const span = element("span", { "data-k": k }, shown(character.text));
    if (character.bits === null) span.className = "lacking";
    span.style.backgroundColor = colour(character) ?? "";
    place.append(span);
  });
  place.onpointerover = place.onpointerdown = (event) => {
    const k = event.target.dataset?.k;
    if (k !== undefined) below.textContent = tell(characters[k]);
  };
}
