// The two pipes to the driver: requests come in, messages go out.
'use strict';

// A pipe takes this much whole or not at all (PIPE_BUF), so that an interrupt, which may cut the
// code short anywhere, never leaves half a line behind.
const ATOMIC = 4096;
const PART = 2900;
const TEXT = 3600;

const { fs, net, buffer, types } = node;
const { Buffer } = buffer;
const byteLength = Buffer.byteLength;
const toBase64 = Function.prototype.call.bind(Buffer.prototype.base64Slice);
const bufferFrom = Buffer.from;

let output = -1;
let input = -1;
let handle = null;
let rest = '';
let socket = null;
let decoder = null;

// A descriptor of one's own, which children do not inherit.
function reopen(descriptor, flags) {
  const own = fs.openSync(`/proc/self/fd/${descriptor}`, flags);
  return own;
}

function open(requests, messages) {
  output = reopen(messages, 'w');
  // Two descriptions of one pipe: the event loop reads without blocking, `ask` waits.
  input = reopen(requests, 'r');
  const polled = reopen(requests, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  fs.closeSync(requests);
  fs.closeSync(messages);
  socket = new net.Socket({ fd: polled, readable: true, writable: false });
}

function listen(take) {
  handle = take;
  decoder = new (node.util.TextDecoder)('utf-8');
  socket.on('data', (data) => {
    rest += decoder.decode(data, { stream: true });
    takeLines();
  });
  socket.on('end', () => node.reallyExit(0));
  socket.on('error', () => node.reallyExit(1));
}

function takeLines() {
  for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n')) {
    const line = rest.slice(0, end);
    rest = rest.slice(end + 1);
    handle(JSON.parse(line));
  }
}

/** The next request, waiting for it; null at the end. */
function readRequest() {
  const data = bufferFrom(new Uint8Array(65536).buffer);
  for (;;) {
    const end = rest.indexOf('\n');
    if (end >= 0) {
      const line = rest.slice(0, end);
      rest = rest.slice(end + 1);
      return JSON.parse(line);
    }
    let count = 0;
    try {
      count = fs.readSync(input, data, 0, data.length, null);
    } catch (error) {
      // A signal came; if it was an interrupt, this code does not go on.
      if (error.code === 'EINTR') continue;
      throw error;
    }
    if (count === 0) return null;
    rest += decoder.decode(data.subarray(0, count), { stream: true });
  }
}

function write(line) {
  for (;;) {
    try {
      fs.writeSync(output, line);
      return;
    } catch (error) {
      if (error.code === 'EPIPE') node.reallyExit(1);
      if (error.code !== 'EINTR' && error.code !== 'EAGAIN') throw error;
    }
  }
}

/** Send a message, in parts if it is long. */
function send(message) {
  const line = JSON.stringify(message) + '\n';
  if (line.length <= ATOMIC && (line.length * 3 <= ATOMIC || byteLength(line) <= ATOMIC)) {
    write(line);
    return;
  }
  const data = bufferFrom(line);
  write('{"op":"parts"}\n');
  for (let start = 0; start < data.length; start += PART) {
    write(`{"op":"part","data":"${toBase64(data, start, Math.min(start + PART, data.length))}"}\n`);
  }
  write('{"op":"whole"}\n');
}

/** Send output as it is: text, or the bytes of a typed array. */
function stream(name, data) {
  if (typeof data === 'string') {
    streamText(name, data.toWellFormed());
    return;
  }
  const bytes = bufferFrom(data.buffer, data.byteOffset, data.byteLength);
  for (let start = 0; start < bytes.length; start += PART) {
    const end = Math.min(start + PART, bytes.length);
    write(`{"op":"bytes","name":"${name}","data":"${toBase64(bytes, start, end)}"}\n`);
  }
}

function streamText(name, text) {
  if (text.length <= TEXT) {
    const line = `{"op":"stream","name":"${name}","text":${JSON.stringify(text)}}\n`;
    if (line.length * 3 <= ATOMIC || byteLength(line) <= ATOMIC) {
      write(line);
      return;
    }
  }
  for (let start = 0, size = Math.min(TEXT, text.length >> 1); start < text.length; ) {
    let end = Math.min(start + size, text.length);
    const last = text.charCodeAt(end - 1);
    if (end < text.length && last >= 0xd800 && last < 0xdc00) end += 1;
    const line = `{"op":"stream","name":"${name}","text":${JSON.stringify(text.slice(start, end))}}\n`;
    if (byteLength(line) > ATOMIC) {
      size = Math.max(1, size >> 1);
      continue;
    }
    write(line);
    start = end;
  }
}

/** `value` as JSON can hold it: without lone surrogates, and with nothing that user code adds. */
function wellFormed(value) {
  if (typeof value === 'string') return value.toWellFormed();
  if (value === null || typeof value !== 'object') return value;
  if (Array.isArray(value)) return Array.from({ length: value.length }, (_, i) => wellFormed(value[i]));
  const copy = { __proto__: null };
  for (const key of Object.keys(value)) copy[key.toWellFormed()] = wellFormed(value[key]);
  return copy;
}

const encode = (data) =>
  toBase64(
    types.isAnyArrayBuffer(data)
      ? bufferFrom(data)
      : bufferFrom(data.buffer, data.byteOffset, data.byteLength),
  );

module.exports = { encode, listen, open, readRequest, send, stream, takeLines, wellFormed };
