/** The client of perdure for browsers and Node. */

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
export type Arguments = { [name: string]: unknown } | unknown[];
/** What goes as it is, or as JSON: any object but a function. */
export type Message<T = Json> =
  | string
  | ArrayBuffer
  | ArrayBufferView
  | Json
  | (T extends (...args: never[]) => unknown ? never : T extends object ? T : never);
export type Status = "idle" | "connecting" | "open" | "waiting" | "closed";

export interface ClientOptions {
  /** Sent with each request, such as `Authorization`. Browsers send none with a WebSocket. */
  headers?: Record<string, string>;
  fetch?: typeof fetch;
  WebSocket?: typeof WebSocket;
}

export interface ObjectOptions {
  /** The connection's query, in `conn.query` on the server. */
  query?: Record<string, unknown>;
  /** A name under which the connection is kept in `sessionStorage`, across reloads of the page. */
  persist?: string;
}

export interface CallOptions {
  /** The call happens once however often it is sent; with it, lost answers are asked for again. */
  idempotencyKey?: string;
  /** Seconds to wait for the result; the call itself goes on. */
  timeout?: number;
  signal?: AbortSignal;
}

export interface Closed {
  code: number;
  reason: string;
}

export interface Opened {
  id: string;
  /** Whether it goes on with a connection; then nothing was missed. */
  resumed: boolean;
}

export interface Lost {
  /** Messages of which nobody knows whether the object had them. */
  unacknowledged: (string | ArrayBuffer)[];
}

export interface StatusFacts extends Partial<Closed>, Partial<Opened> {
  /** With `waiting`: milliseconds until the next try. */
  pause?: number;
}

/** What a server has answered instead of a result. */
export class PerdureError extends Error {
  readonly status: number;
  /** Stable, such as `invalid-arguments`; the message is for people. */
  readonly code: string;
  /** The bare class name of what the handler raised. */
  readonly error?: string;
  readonly errors: { path: string; message: string }[];
  readonly problem: { [name: string]: unknown };
}

export interface RemoteObject {
  readonly className: string;
  readonly key: string;
  readonly status: Status;
  onstatus: ((status: Status, facts: StatusFacts) => void) | null;

  /** Call a handler: arguments by name in an object, or by position in an array. */
  call<T = any>(handler: string, args?: Arguments, options?: CallOptions): Promise<T>;
  /** Ask a query with GET. */
  query<T = any>(
    handler: string,
    args?: Record<string, unknown>,
    options?: { signal?: AbortSignal },
  ): Promise<T>;
  /** Call a handler without waiting for its result; gives the id of the call. */
  tell(handler: string, args?: Arguments, options?: { idempotencyKey?: string }): Promise<string>;
  /** The items of a handler that streams; a lost line is taken up where it was. */
  stream<T = any>(
    handler: string,
    args?: Arguments,
    options?: { idempotencyKey?: string; signal?: AbortSignal },
  ): AsyncGenerator<T, void, void>;

  /** Text that is JSON comes parsed. Listening for messages opens the connection. */
  on(event: "message" | "ephemeral", listener: (message: any) => void): () => void;
  on(event: "open", listener: (facts: Opened) => void): () => void;
  on(event: "status", listener: (facts: { status: Status } & StatusFacts) => void): () => void;
  /** It has ended, by either side, and is not taken up again. */
  on(event: "close", listener: (facts: Closed) => void): () => void;
  /** It could not be taken up again; a new one begins. What was sent may have arrived or not. */
  on(event: "lost", listener: (facts: Lost) => void): () => void;

  /** Send a message; it is repeated until the server has it on disk. */
  send<T>(message: Message<T>): void;
  /** Send what may be lost, such as cursors. */
  sendEphemeral<T>(message: Message<T>): void;
  open(): void;
  close(code?: number, reason?: string): void;
}

export interface Client {
  readonly url: string;
  /** One object. Nothing is asked of the server yet. */
  object(className: string, key: string, options?: ObjectOptions): RemoteObject;
}

/** A server. In a browser the default is the one that served this module. */
export function connect(url?: string, options?: ClientOptions): Client;
