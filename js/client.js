/**
 * The client of perdure for browsers and Node: one module without dependencies.
 *
 *     import { connect } from "/_perdure/client.js";
 *     const room = connect().object("Room", "lobby", { query: { name: "ada" } });
 *     await room.call("post", { text: "hello" });
 *     room.on("message", (message) => console.log(message));
 *     room.send("hi");
 *
 * A connection outlives its line: after a lost line or a restarted server it comes back as the same
 * connection, gets what it missed once and in order, and sends again what was not acknowledged
 * (docs/sessions.md, the resume protocol).
 */

const PROTOCOL = "perdure.v1";
const FIRST_PAUSE = 200;
const LONGEST_PAUSE = 15_000;
// A line that is silent for so long is asked whether it is alive, and given up if it says nothing.
const SILENCE = 20_000;
const PATIENCE = 10_000;
// So many messages are received between two acknowledgements; the server needs none to be right.
const ACK_EVERY = 64;
const QUEUE_BYTES_MAX = 1 << 20;

// Close codes after which the same connection may be taken up again (docs/sessions.md).
const RESTARTED = 1012;
const TRY_LATER = 1013;
const GONE = 4404;
const LINE_IS_LOST = new Set([1001, 1005, 1006, RESTARTED, TRY_LATER, 1014, 1015]);

/** What a server has answered instead of a result; `code` is stable, the text is for people. */
export class PerdureError extends Error {
  constructor(problem, status) {
    super(problem.detail || problem.title || `status ${status}`);
    this.name = "PerdureError";
    this.status = status;
    this.code = problem.code || "unknown";
    this.error = problem.error;
    this.errors = problem.errors || [];
    this.problem = problem;
  }
}

/** A server. In a browser the default is the one that served this module. */
export function connect(url, options = {}) {
  return new Client(url, options);
}

class Client {
  constructor(url, { headers = {}, fetch, WebSocket } = {}) {
    this.url = baseUrl(url);
    this.headers = headers;
    this.fetch = fetch || globalThis.fetch.bind(globalThis);
    this.WebSocket = WebSocket || globalThis.WebSocket;
  }

  /** One object. Nothing is asked of the server yet. */
  object(className, key, options = {}) {
    return new RemoteObject(this, className, key, options);
  }

  async request(method, path, { body, headers = {}, signal } = {}) {
    const sent = { ...this.headers, ...headers };
    if (body !== undefined) {
      sent["Content-Type"] = "application/json";
    }
    const response = await this.fetch(this.url + path, {
      method,
      headers: sent,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
    if (!response.ok) {
      throw await refusal(response);
    }
    return response;
  }
}

class RemoteObject {
  constructor(client, className, key, options) {
    if (key === "." || key === "..") {
      // Escaped or not, a URL takes it for the folder that it is in others.
      throw new Error(`no URL can name the key ${JSON.stringify(key)}`);
    }
    this.client = client;
    this.className = className;
    this.key = key;
    this.path = `/${encodeURIComponent(className)}/${encodeURIComponent(key)}`;
    this.connection = new Connection(this, options);
  }

  /** Call a handler: arguments by name in an object, or by position in an array. */
  async call(handler, args = {}, options = {}) {
    const headers = {};
    if (options.idempotencyKey !== undefined) {
      headers["Idempotency-Key"] = options.idempotencyKey;
    }
    if (options.timeout !== undefined) {
      headers["Perdure-Timeout"] = String(options.timeout);
    }
    const ask = () =>
      this.client.request("POST", `${this.path}/${handler}`, {
        body: args,
        headers,
        signal: options.signal,
      });
    // Without a key nobody can tell whether a call that got no answer has happened.
    const again = options.idempotencyKey !== undefined;
    const response = await (again ? untilAnswered(ask, options.signal) : ask());
    return result(response);
  }

  /** Ask a query with GET. Arguments that are no text go as JSON. */
  async query(handler, args = {}, options = {}) {
    const search = parameters(args);
    const path = `${this.path}/${handler}${search && `?${search}`}`;
    return result(await this.client.request("GET", path, { signal: options.signal }));
  }

  /** Call a handler without waiting for its result; gives the id of the call. */
  async tell(handler, args = {}, options = {}) {
    const headers = { Prefer: "respond-async" };
    if (options.idempotencyKey !== undefined) {
      headers["Idempotency-Key"] = options.idempotencyKey;
    }
    const path = `${this.path}/${handler}`;
    const response = await this.client.request("POST", path, { body: args, headers });
    return (await response.json()).id;
  }

  /** The items of a handler that streams; a lost line is taken up where it was. */
  async *stream(handler, args = {}, options = {}) {
    const headers = {
      Accept: "text/event-stream",
      "Idempotency-Key": options.idempotencyKey || randomId(),
    };
    const path = `${this.path}/${handler}`;
    let last = 0;
    let pause = FIRST_PAUSE;
    for (;;) {
      try {
        if (last) {
          headers["Last-Event-ID"] = String(last);
        }
        const request = { body: args, headers, signal: options.signal };
        const response = await this.client.request("POST", path, request);
        for await (const { event, id, data } of serverSentEvents(response.body)) {
          if (event === "end") {
            return;
          }
          const value = JSON.parse(data);
          if (event === "error") {
            throw new PerdureError(value, value.status);
          }
          last = Number(id);
          pause = FIRST_PAUSE;
          yield value;
        }
      } catch (error) {
        if (!mayPass(error) || options.signal?.aborted) {
          throw error;
        }
      }
      await sleep(jittered(pause), options.signal);
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
  }

  /** Listen; `message` opens the connection. Gives a function that ends the listening. */
  on(event, listener) {
    return this.connection.on(event, listener);
  }

  /** Send a message; objects and arrays go as JSON. It is repeated until it is acknowledged. */
  send(message) {
    this.connection.send(message);
  }

  /** Send what may be lost: cursors, typing signs. Dropped while there is no line. */
  sendEphemeral(message) {
    this.connection.sendEphemeral(message);
  }

  /** Open the connection, if it is not open. */
  open() {
    this.connection.open();
  }

  /** Leave: the connection ends at once. */
  close(code = 1000, reason = "") {
    this.connection.close(code, reason);
  }

  /** `idle`, `connecting`, `open`, `waiting` (for the next try), or `closed`. */
  get status() {
    return this.connection.status;
  }

  set onstatus(listener) {
    this.connection.onstatus = listener;
  }
}

class Connection {
  constructor(object, { query = {}, persist = "" } = {}) {
    this.object = object;
    this.query = query;
    this.persist = persist && `perdure:${object.client.url}${object.path}:${persist}`;
    this.listeners = new Map();
    this.onstatus = null;
    this.status = "idle";
    this.id = null;
    this.socket = null;
    this.timer = null;
    this.begin();
    this.restore();
  }

  /** Forget the connection that was: the next line begins a new one. */
  begin() {
    this.token = "";
    this.position = [0, 0];
    this.number = 0;
    this.unacknowledged = [];
    this.queuedBytes = 0;
    this.sinceAck = 0;
    this.failures = 0;
    this.greeted = false;
  }

  on(event, listener) {
    const listeners = this.listeners.get(event) || new Set();
    this.listeners.set(event, listeners);
    listeners.add(listener);
    if (event === "message") {
      this.open();
    }
    return () => listeners.delete(listener);
  }

  emit(event, value) {
    for (const listener of [...(this.listeners.get(event) || [])]) {
      try {
        listener(value);
      } catch (error) {
        // One listener's mistake must not keep a message from the others.
        console.error(error);
      }
    }
  }

  become(status, facts = {}) {
    if (status !== this.status || status === "waiting") {
      this.status = status;
      this.onstatus?.(status, facts);
      this.emit("status", { status, ...facts });
    }
  }

  open() {
    if (this.status === "idle" || this.status === "closed") {
      this.dial();
    }
  }

  // --- the line

  dial() {
    clearTimeout(this.timer);
    this.become("connecting");
    const query = { ...this.query };
    if (this.token) {
      query.resume = this.token;
      query.at = this.position.join(".");
    }
    const search = parameters(query);
    const url = this.object.client.url.replace(/^http/, "ws") + this.object.path;
    let socket;
    try {
      socket = new this.object.client.WebSocket(search ? `${url}?${search}` : url, [PROTOCOL]);
    } catch (error) {
      this.end(1006, String(error));
      return;
    }
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.greeted = false;
    this.heard();
    socket.onmessage = (event) => socket === this.socket && this.receive(event.data);
    socket.onclose = (event) => socket === this.socket && this.lost(event.code, event.reason);
    socket.onerror = () => {};
    if (typeof globalThis.addEventListener === "function" && !this.watching) {
      this.watching = true;
      globalThis.addEventListener("online", () => {
        if (this.status === "waiting") {
          this.dial();
        }
      });
    }
  }

  /** Something came; what is silent from here on is asked, and then given up. */
  heard() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (this.greeted) {
        this.socket.send("ping \n");
      }
      this.timer = setTimeout(() => {
        const socket = this.socket;
        this.lost(1006, "the line is silent");
        socket.close();
      }, PATIENCE);
    }, SILENCE);
  }

  lost(code, reason) {
    clearTimeout(this.timer);
    this.socket = null;
    if (code === GONE) {
      const unacknowledged = this.unacknowledged.map(({ data }) => data);
      this.begin();
      this.save();
      this.emit("lost", { unacknowledged });
      this.dial();
    } else if (LINE_IS_LOST.has(code)) {
      this.failures += 1;
      const doubled = FIRST_PAUSE * 2 ** Math.min(this.failures - 1, 10);
      // After a restart everybody comes at the same moment: that is what the jitter is for.
      const pause = jittered(Math.min(doubled, LONGEST_PAUSE));
      this.become("waiting", { code, reason, pause });
      this.timer = setTimeout(() => this.dial(), pause);
    } else {
      this.end(code, reason);
    }
  }

  end(code, reason) {
    clearTimeout(this.timer);
    this.begin();
    this.save();
    this.become("closed", { code, reason });
    this.emit("close", { code, reason });
  }

  close(code, reason) {
    // First: it throws for a code or a reason that cannot be sent, and then nothing has ended.
    this.socket?.close(code, reason);
    this.socket = null;
    if (this.status !== "closed" && this.status !== "idle") {
      this.end(code, reason);
    }
  }

  // --- what comes

  receive(data) {
    this.heard();
    const { words, payload } = parse(data);
    switch (words[0]) {
      case "hello":
        this.hello(words);
        break;
      case "m": {
        const position = words[1].split(".").map(Number);
        if (isBehind(position, this.position)) {
          this.position = position;
          this.acknowledge();
          this.save();
          this.emit("message", parsed(payload));
        }
        break;
      }
      case "e":
        this.emit("ephemeral", parsed(payload));
        break;
      case "ack":
        this.acknowledged(Number(words[1]));
        break;
    }
  }

  hello([, token, , id, resumed, received]) {
    this.greeted = true;
    this.failures = 0;
    this.token = token;
    this.id = id;
    this.acknowledged(Number(received));
    if (this.persist) {
      this.socket.send("stay\n");
    }
    for (const { number, data } of this.unacknowledged) {
      this.transmit(`m ${number}`, data);
    }
    this.save();
    this.become("open", { id, resumed: resumed === "1" });
    this.emit("open", { id, resumed: resumed === "1" });
  }

  acknowledge() {
    this.sinceAck += 1;
    if (this.sinceAck >= ACK_EVERY && this.socket) {
      this.sinceAck = 0;
      this.socket.send(`ack ${this.position.join(".")}\n`);
    }
  }

  acknowledged(number) {
    while (this.unacknowledged.length && this.unacknowledged[0].number <= number) {
      this.queuedBytes -= size(this.unacknowledged.shift().data);
    }
    this.save();
  }

  // --- what goes

  send(message) {
    const data = asData(message);
    if (this.status === "closed") {
      throw new Error("the connection is closed; open() begins a new one");
    }
    if (this.queuedBytes + size(data) > QUEUE_BYTES_MAX) {
      throw new Error(`more than ${QUEUE_BYTES_MAX} bytes wait for the server to take them`);
    }
    this.number += 1;
    this.queuedBytes += size(data);
    this.unacknowledged.push({ number: this.number, data });
    this.save();
    if (this.greeted && this.socket) {
      this.transmit(`m ${this.number}`, data);
    } else {
      this.open();
    }
  }

  sendEphemeral(message) {
    if (this.greeted && this.socket) {
      this.transmit("e", asData(message));
    }
  }

  transmit(header, data) {
    if (typeof data === "string") {
      this.socket.send(`${header}\n${data}`);
      return;
    }
    const head = new TextEncoder().encode(`${header}\n`);
    const whole = new Uint8Array(head.length + data.byteLength);
    whole.set(head);
    whole.set(new Uint8Array(data), head.length);
    this.socket.send(whole);
  }

  // --- across a reload of the page

  save() {
    if (!this.persist || !globalThis.sessionStorage) {
      return;
    }
    const texts = this.unacknowledged.filter(({ data }) => typeof data === "string");
    const state = {
      token: this.token,
      position: this.position,
      number: this.number,
      // What is binary cannot be kept there; then the connection begins anew after a reload.
      unacknowledged: texts,
    };
    if (this.token && texts.length === this.unacknowledged.length) {
      sessionStorage.setItem(this.persist, JSON.stringify(state));
    } else {
      sessionStorage.removeItem(this.persist);
    }
  }

  restore() {
    const text = this.persist && globalThis.sessionStorage?.getItem(this.persist);
    if (text) {
      Object.assign(this, JSON.parse(text));
      this.queuedBytes = this.unacknowledged.reduce((sum, { data }) => sum + size(data), 0);
    }
  }
}

// --- the wire

function parse(data) {
  if (typeof data === "string") {
    const end = data.indexOf("\n");
    return { words: data.slice(0, end).split(" "), payload: data.slice(end + 1) };
  }
  const bytes = new Uint8Array(data);
  const end = bytes.indexOf(10);
  const words = new TextDecoder().decode(bytes.subarray(0, end)).split(" ");
  return { words, payload: data.slice(end + 1) };
}

/** What a listener gets: text that is JSON parsed, other text as it is, bytes as an ArrayBuffer. */
function parsed(payload) {
  if (typeof payload !== "string") {
    return payload;
  }
  try {
    return JSON.parse(payload);
  } catch {
    return payload;
  }
}

function asData(message) {
  if (typeof message === "string" || message instanceof ArrayBuffer) {
    return message;
  }
  if (ArrayBuffer.isView(message)) {
    return message.buffer.slice(message.byteOffset, message.byteOffset + message.byteLength);
  }
  return JSON.stringify(message);
}

function size(data) {
  return typeof data === "string" ? data.length : data.byteLength;
}

function isBehind([seq, index], [lastSeq, lastIndex]) {
  return seq > lastSeq || (seq === lastSeq && index > lastIndex);
}

async function* serverSentEvents(body) {
  const decoder = new TextDecoder();
  let text = "";
  for await (const piece of pieces(body)) {
    text += decoder.decode(piece, { stream: true });
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const found = { event: "message", id: "", data: "" };
      for (const line of text.slice(0, end).split("\n")) {
        const colon = line.indexOf(":");
        if (colon > 0) {
          found[line.slice(0, colon)] = line.slice(colon + 1).replace(/^ /, "");
        }
      }
      text = text.slice(end + 2);
      if (found.data) {
        yield found;
      }
    }
  }
}

async function* pieces(body) {
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        return;
      }
      yield value;
    }
  } finally {
    // A loop that was left early lets the line go; the handler on the server goes on.
    reader.cancel().catch(() => {});
  }
}

// --- requests

async function result(response) {
  return response.status === 204 ? undefined : response.json();
}

async function refusal(response) {
  const text = await response.text();
  try {
    return new PerdureError(JSON.parse(text), response.status);
  } catch {
    return new PerdureError({ detail: text.slice(0, 200), code: "no-perdure" }, response.status);
  }
}

/** Whether trying again may help: nobody answered, or the server asked for a moment. */
function mayPass(error) {
  return error instanceof PerdureError ? error.status === 503 : error instanceof TypeError;
}

async function untilAnswered(ask, signal) {
  let pause = FIRST_PAUSE;
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!mayPass(error) || signal?.aborted) {
        throw error;
      }
    }
    await sleep(jittered(pause), signal);
    pause = Math.min(pause * 2, LONGEST_PAUSE);
  }
}

function parameters(values) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      search.append(name, typeof one === "string" ? one : JSON.stringify(one));
    }
  }
  return search.toString();
}

function baseUrl(url) {
  const here = globalThis.location?.href;
  // Served by a node, this module lies at /_perdure/client.js below the place it is mounted at.
  const served = import.meta.url.match(/^(https?:.*)\/_perdure\/client\.js/)?.[1];
  const given = url ?? served ?? here;
  if (given === undefined) {
    throw new Error("connect(url) needs the URL of a server, such as http://127.0.0.1:7373");
  }
  const found = new URL(given, here);
  found.protocol = found.protocol.replace(/^ws/, "http");
  return (found.origin + found.pathname).replace(/\/+$/, "");
}

function jittered(pause) {
  return pause / 2 + (Math.random() * pause) / 2;
}

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
