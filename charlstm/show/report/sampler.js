"use strict";

// Texts to ids and back, random numbers, and drawing: as `charlstm sample` does, so that a seed gives the same text.

/** Unicode characters to ids and back. */
class Characters {
  constructor(codes) {
    this.codes = codes;
    this.ids = new Map(codes.map((code, id) => [code, id]));
  }

  /** For each character of a text: its ids, or null if the vocabulary lacks it. */
  encode(text) {
    return Array.from(text, (character) => {
      const id = this.ids.get(character.codePointAt(0));
      return { text: character, ids: id === undefined ? null : [id] };
    });
  }

  /** A function that turns the next id into text; without an id, it gives what it has held back. */
  decoder() {
    return (id) => (id === undefined ? "" : String.fromCodePoint(this.codes[id]));
  }
}

/** UTF-8 bytes; a decoder holds back the bytes of a character until it is complete. */
class Bytes {
  encode(text) {
    const encoder = new TextEncoder();
    return Array.from(text, (character) => ({ text: character, ids: Array.from(encoder.encode(character)) }));
  }

  decoder() {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return (id) => (id === undefined ? decoder.decode() : decoder.decode(Uint8Array.of(id), { stream: true }));
  }
}

function vocabularyOf(model) {
  return model.isOfBytes ? new Bytes() : new Characters(model.vocabulary);
}

/** A text as the model would read it from a file. */
function asRead(text, model) {
  const lower = model.lower ? text.toLowerCase() : text;
  return model.isOfBytes ? lower : lower.replace(/^\ufeff/, "").replace(/\r\n?/g, "\n");
}

/** The Mersenne Twister of Matsumoto and Nishimura (1998), seeded and read as numpy.random.RandomState does. */
class Twister {
  constructor(seed) {
    this.key = new Uint32Array(624);
    this.key[0] = seed;
    for (let k = 1; k < 624; k++) {
      const before = this.key[k - 1] ^ (this.key[k - 1] >>> 30);
      this.key[k] = Math.imul(1812433253, before) + k;
    }
    this.place = 624;
  }

  integer() {
    const key = this.key;
    if (this.place === 624) {
      for (let k = 0; k < 624; k++) {
        const y = (key[k] & 0x80000000) | (key[(k + 1) % 624] & 0x7fffffff);
        key[k] = key[(k + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.place = 0;
    }
    let y = key[this.place++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** The next number of [0, 1), with 53 bits. */
  uniform() {
    const high = this.integer() >>> 5;
    return (high * 67108864 + (this.integer() >>> 6)) / 9007199254740992;
  }
}

/** Draw an id: the logits divided by the temperature, then the fewest most likely ids that reach topP. */
function draw(logits, temperature, topP, uniform) {
  let likeliest = 0;
  for (let k = 1; k < logits.length; k++) if (logits[k] > logits[likeliest]) likeliest = k;
  if (temperature === 0) return likeliest;
  const weights = logits.map((each) => Math.exp((each - logits[likeliest]) / temperature));
  if (topP < 1) {
    const order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
    const wanted = topP * weights.reduce((sum, each) => sum + each, 0);
    let sum = 0;
    for (const id of order) {
      if (sum >= wanted && sum > 0) weights[id] = 0;
      else sum += weights[id];
    }
  }
  const total = weights.reduce((sum, each) => sum + each, 0);
  let sum = 0;
  for (let k = 0; k < weights.length; k++) {
    sum += weights[k];
    if (sum / total > uniform) return k;
  }
  return likeliest;
}

/** Yield the pieces of a text: what is drawn after the ids of a prime, one piece for each id; return what is left. */
function* writing(model, primeIds, options) {
  const network = new Network(model);
  const twister = new Twister(options.seed);
  const decode = vocabularyOf(model).decoder();
  for (const id of [...model.begin, ...primeIds]) network.read(id);
  const recent = [];
  for (let n = 0; n < options.length; n++) {
    const logits = network.logits();
    if (!logits.every(Number.isFinite)) throw new RangeError("The weights are so large that no probability is finite.");
    const id = draw(logits, options.temperature, options.topP, twister.uniform());
    yield decode(id);
    recent.push(id);
    if (model.end.length && model.end.every((each, k) => recent[recent.length - model.end.length + k] === each)) break;
    network.read(id);
  }
  return decode();
}
