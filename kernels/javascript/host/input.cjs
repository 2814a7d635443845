// Lines of input: `prompt` waits for one, process.stdin gets them as it is read.
'use strict';

const channel = require('channel');
const requests = require('requests');

const { global, process } = node;

let run = null;
let waiting = null;

function setRun(current) {
  run = current;
  if (run === null) waiting = null;
  else stdin?.wake();
}

/** Ask and wait; null if nobody answers. */
function ask(text, password) {
  channel.send({ __proto__: null, op: 'ask', prompt: text.toWellFormed(), password });
  const request = requests.waitFor(
    ({ op }) => op === 'input',
    () => run === null || run.over,
  );
  if (request === null) throw new node.Error('the run was interrupted');
  return request.line;
}

function prompt(message = '', initial = null) {
  // Without a run there is nobody to ask.
  if (run === null || run.over || waiting !== null) return null;
  const line = ask(String(message), false);
  return line === '' && initial !== null ? String(initial) : line;
}

let stdin = null;

// Asks for a line only when the code reads, and no more than it reads.
function makeStdin() {
  const { Readable } = node.stream;
  return new (class Stdin extends Readable {
    #wanted = false;

    constructor() {
      super({ highWaterMark: 1 });
      this.fd = 0;
      this.isTTY = undefined;
      this.on('resume', () => this.wake());
      this.on('newListener', (name) => name === 'readable' && this.wake());
    }

    _read() {
      this.#wanted = true;
      this.wake();
    }

    // Not at once: code that got its line often stops reading in that very turn.
    wake() {
      if (this.#wanted) node.setImmediate(() => this.#ask());
    }

    #ask() {
      const idle = run === null || run.over || waiting !== null;
      const paused = this.readableFlowing === false && this.listenerCount('readable') === 0;
      if (!this.#wanted || idle || paused || this.destroyed) return;
      this.#wanted = false;
      waiting = (line) => this.push(line === null ? null : `${line}\n`);
      channel.send({ __proto__: null, op: 'ask', prompt: '', password: false });
    }
  })();
}

/** The answer to what process.stdin has asked. */
function answer(line) {
  const take = waiting;
  waiting = null;
  take?.(line);
}

function install() {
  Object.setPrototypeOf(prompt, node.functionPrototype);
  Object.defineProperty(global, 'prompt', { configurable: true, writable: true, value: prompt });
  Object.defineProperty(process, 'stdin', {
    configurable: true,
    enumerable: true,
    get: () => (stdin ??= makeStdin()),
  });
}

module.exports = { answer, install, setRun };
