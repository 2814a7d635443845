// Keeps what children write to inherited stdout and stderr in order with the cell's own output.
'use strict';

const channel = require('channel');

const { childProcess } = node;

const SYNCHRONOUS = ['spawnSync', 'execSync', 'execFileSync'];

const running = new Set();

/** Tell the driver that what children have written so far comes before what follows. */
const settle = () => channel.send({ __proto__: null, op: 'settle' });

function install() {
  for (const name of SYNCHRONOUS) {
    const original = childProcess[name];
    const wrapped = {
      [name](...parameters) {
        // The driver passes an interrupt on to the child that Node waits for, and to no other.
        channel.send({ __proto__: null, op: 'child', others: Array.from(running) });
        try {
          return Reflect.apply(original, this, parameters);
        } finally {
          channel.send({ __proto__: null, op: 'settle' });
        }
      },
    }[name];
    Object.setPrototypeOf(wrapped, node.functionPrototype);
    Object.defineProperty(wrapped, 'length', { value: original.length, configurable: true });
    childProcess[name] = wrapped;
  }
  const { prototype } = childProcess.ChildProcess;
  const spawn = prototype.spawn;
  prototype.spawn = function (...parameters) {
    const result = Reflect.apply(spawn, this, parameters);
    const { pid } = this;
    if (pid !== undefined) {
      running.add(pid);
      this.prependOnceListener('exit', () => {
        running.delete(pid);
        settle();
      });
    }
    return result;
  };
  node.module.syncBuiltinESMExports();
}

module.exports = { install };
