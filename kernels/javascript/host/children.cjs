// Keeps what children write to inherited stdout and stderr in order with the cell's own output.
'use strict';

const requests = require('requests');

const { childProcess } = node;

const SYNCHRONOUS = ['spawnSync', 'execSync', 'execFileSync'];

const running = new Set();

function install() {
  for (const name of SYNCHRONOUS) {
    const original = childProcess[name];
    const wrapped = {
      [name](...parameters) {
        // The driver passes an interrupt on to the child that Node waits for, and to no other.
        requests.settle(Array.from(running));
        try {
          return Reflect.apply(original, this, parameters);
        } finally {
          requests.settle();
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
    requests.settle();
    const result = Reflect.apply(spawn, this, parameters);
    const { pid } = this;
    if (pid !== undefined) {
      running.add(pid);
      this.prependOnceListener('exit', () => {
        running.delete(pid);
        requests.settle();
      });
    }
    return result;
  };
  node.module.syncBuiltinESMExports();
}

module.exports = { install };
