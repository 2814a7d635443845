// process.stdout, process.stderr and console: what they write goes to the driver in one order.
'use strict';

const channel = require('channel');

const { global, process, stream } = node;
const { Buffer } = node.buffer;

// Without the machinery of Writable: an interrupt in the middle of it would leave it stuck.
class Output extends stream.Writable {
  constructor(name, fd) {
    super({ decodeStrings: false, emitClose: false });
    this._name = name;
    this.fd = fd;
    this._type = 'pipe';
    this._isStdio = true;
  }

  write(chunk, encoding, callback) {
    if (typeof encoding === 'function') [encoding, callback] = [undefined, encoding];
    if (typeof chunk === 'string') {
      const plain = encoding === undefined || encoding === null || /^utf-?8$|^buffer$/i.test(encoding);
      channel.stream(this._name, plain ? chunk : Buffer.from(chunk, encoding));
    } else if (ArrayBuffer.isView(chunk)) {
      channel.stream(this._name, chunk);
    } else {
      const error = new node.TypeError(
        'The "chunk" argument must be of type string or an instance of Buffer, TypedArray, or ' +
          `DataView. Received ${chunk === null ? 'null' : `type ${typeof chunk}`}`,
      );
      error.code = 'ERR_INVALID_ARG_TYPE';
      throw error;
    }
    if (typeof callback === 'function') node.nextTick(callback);
    return true;
  }

  end(chunk, encoding, callback) {
    if (typeof chunk === 'function') [chunk, callback] = [undefined, chunk];
    if (typeof encoding === 'function') [encoding, callback] = [undefined, encoding];
    if (chunk !== undefined && chunk !== null) this.write(chunk, encoding);
    if (typeof callback === 'function') node.nextTick(callback);
    node.nextTick(() => this.emit('finish'));
    return this;
  }

  // As in Node, these cannot be closed.
  destroy(error, callback) {
    if (typeof callback === 'function') callback(error);
    return this;
  }

  _write(chunk, encoding, callback) {
    callback();
  }
}

function install() {
  for (const [name, fd] of [['stdout', 1], ['stderr', 2]]) {
    const output = new Output(name, fd);
    Object.defineProperty(process, name, {
      configurable: true,
      enumerable: true,
      writable: true,
      value: output,
    });
  }
  // Node's own console also tells the inspector, which keeps what was shown in memory.
  const fresh = new node.Console({ stdout: process.stdout, stderr: process.stderr, colorMode: false });
  for (const key of Reflect.ownKeys(fresh)) {
    const descriptor = Object.getOwnPropertyDescriptor(fresh, key);
    const present = Object.getOwnPropertyDescriptor(global.console, key);
    if (present === undefined || present.configurable) {
      Object.defineProperty(global.console, key, descriptor);
    } else if (present.writable) {
      global.console[key] = fresh[key];
    }
  }
}

module.exports = { install };
