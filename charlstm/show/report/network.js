"use strict";

// The network in plain JavaScript: the equations of kernels/spec/cells.py, one step of one stream at a time.
// Weights are float32 and sums float64, so logits agree with Python's up to rounding.

function bytesOf(base64) {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let k = 0; k < binary.length; k++) bytes[k] = binary.charCodeAt(k);
  return bytes;
}

function floatsOf(base64) {
  const view = new DataView(bytesOf(base64).buffer);
  const floats = new Float32Array(view.byteLength / 4);
  for (let k = 0; k < floats.length; k++) floats[k] = view.getFloat32(4 * k, true); // little-endian everywhere
  return floats;
}

function sigmoid(x) {
  const e = Math.exp(-Math.abs(x));
  return (x >= 0 ? 1 : e) / (1 + e);
}

/** Add the product of a vector x (n) and a matrix W (n, m), stored row by row, to out (m). */
function addProduct(out, x, W) {
  const m = out.length;
  for (let k = 0, row = 0; k < x.length; k++, row += m) {
    const factor = x[k];
    if (factor !== 0) for (let j = 0; j < m; j++) out[j] += factor * W[row + j];
  }
}

/** (v - mean v) / sqrt(var v + epsilon), in place. */
function normalise(v, epsilon) {
  let mean = 0;
  for (const each of v) mean += each;
  mean /= v.length;
  let variance = 0;
  for (const each of v) variance += (each - mean) ** 2;
  const scale = 1 / Math.sqrt(variance / v.length + epsilon);
  for (let k = 0; k < v.length; k++) v[k] = (v[k] - mean) * scale;
}

// A step of each cell: `a` is x W_x without a bias. It updates the state: h, for the LSTMs c, and m, what people are
// shown of a unit's memory: what the output gate of an LSTM lets through, or h itself.
const STEPS = {
  lstm(a, state, layer, H) {
    addProduct(a, state.h, layer.W_h);
    for (let j = 0; j < a.length; j++) a[j] += layer.b[j];
    gated(a, state, H);
    for (let j = 0; j < H; j++) {
      state.m[j] = Math.tanh(state.c[j]);
      state.h[j] = sigmoid(a[3 * H + j]) * state.m[j];
    }
  },
  lnlstm(a, state, layer, H, epsilon) {
    const s = new Float64Array(4 * H);
    addProduct(s, state.h, layer.W_h);
    normalise(a, epsilon);
    normalise(s, epsilon);
    for (let j = 0; j < a.length; j++) a[j] = layer.gain_x[j] * a[j] + layer.gain_h[j] * s[j] + layer.b[j];
    gated(a, state, H);
    const n = state.c.slice();
    normalise(n, epsilon);
    for (let j = 0; j < H; j++) {
      state.m[j] = Math.tanh(layer.gain_c[j] * n[j] + layer.b_c[j]);
      state.h[j] = sigmoid(a[3 * H + j]) * state.m[j];
    }
  },
  gru(a, state, layer, H) {
    const s = new Float64Array(3 * H);
    addProduct(s, state.h, layer.W_h);
    for (let j = 0; j < a.length; j++) {
      a[j] += layer.b_x[j];
      s[j] += layer.b_h[j];
    }
    for (let j = 0; j < H; j++) {
      const r = sigmoid(a[j] + s[j]);
      const z = sigmoid(a[H + j] + s[H + j]);
      const n = Math.tanh(a[2 * H + j] + r * s[2 * H + j]);
      state.h[j] = (1 - z) * n + z * state.h[j];
    }
  },
  rnn(a, state, layer, H) {
    addProduct(a, state.h, layer.W_h);
    for (let j = 0; j < H; j++) state.h[j] = Math.tanh(a[j] + layer.b[j]);
  },
};

/** c = f c + i g, for gates in the order i, f, g, o. */
function gated(z, state, H) {
  for (let j = 0; j < H; j++) {
    state.c[j] = sigmoid(z[H + j]) * state.c[j] + sigmoid(z[j]) * Math.tanh(z[2 * H + j]);
  }
}

/** The weights, and the state after what has been read so far; a new one has read nothing. */
class Network {
  constructor(model) {
    this.model = model;
    const { H, L } = model;
    const theta = model.theta ?? (model.theta = floatsOf(model.weights));
    const view = (name) => {
      if (!(name in model.blocks)) return undefined;
      const [offset, ...dims] = model.blocks[name];
      return theta.subarray(offset, offset + dims.reduce((product, each) => product * each, 1));
    };
    this.embedding = view("embedding");
    this.W_y = view("W_y");
    this.b_y = view("b_y");
    this.layers = [];
    for (let k = 0; k < L; k++) {
      const names = ["W_x", "W_h", "b", "b_x", "b_h", "gain_x", "gain_h", "gain_c", "b_c"];
      this.layers.push(Object.fromEntries(names.map((name) => [name, view(`${name}_l${k}`)])));
    }
    this.states = this.layers.map(() => {
      const h = new Float64Array(H);
      const hasC = model.cell === "lstm" || model.cell === "lnlstm";
      return { h, c: new Float64Array(H), m: hasC ? new Float64Array(H) : h };
    });
  }

  /** Read one id. */
  read(id) {
    const { cell, H, E, epsilon } = this.model;
    let below = null;
    this.layers.forEach((layer, k) => {
      const columns = layer.W_h.length / H;
      const a = new Float64Array(columns);
      if (k === 0 && !E) {
        for (let j = 0; j < columns; j++) a[j] = layer.W_x[id * columns + j];
      } else {
        addProduct(a, k === 0 ? this.embedding.subarray(id * E, (id + 1) * E) : below, layer.W_x);
      }
      STEPS[cell](a, this.states[k], layer, H, epsilon);
      below = this.states[k].h;
    });
  }

  /** The logits of the next id. */
  logits() {
    const out = Float64Array.from(this.b_y);
    addProduct(out, this.states[this.states.length - 1].h, this.W_y);
    return out;
  }

  /** Write what each unit remembers, between -127 and 127. */
  remembered(into, at) {
    for (const { m } of this.states) for (const each of m) into[at++] = Math.round(127 * each);
  }
}

/** -log2 of the probability that logits give to an id. */
function surprise(logits, id) {
  let most = -Infinity;
  for (const each of logits) most = Math.max(most, each);
  let total = 0;
  for (const each of logits) total += Math.exp(each - most);
  return (Math.log(total) + most - logits[id]) / Math.LN2;
}
