// The part of the host's life in which SIGINT cuts the code short, whatever it does.
'use strict';

const channel = require('channel');

const { vm, realm, process } = node;

let work = null;
let depth = 0;

realm.enter = () => {
  // From here on the driver may send SIGINT; before and after, it asks over the pipe.
  if (depth === 0) channel.send({ op: 'guarded' });
  depth += 1;
  work();
};
const script = new vm.Script('enter()', { filename: 'kernelagent:region' });
const runInContext = vm.Script.prototype.runInContext;

function onInterrupt() {}

/** Without a listener Node ends at the first SIGINT outside a region. */
function keepListening() {
  if (!process.listeners('SIGINT').includes(onInterrupt)) process.on('SIGINT', onInterrupt);
}

/** Call `task`; false if SIGINT cut it short. What `task` throws is thrown. */
function guard(task) {
  const outer = [work, depth];
  work = task;
  try {
    runInContext.call(script, realm, { breakOnSigint: true, displayErrors: false });
    return true;
  } catch (error) {
    if (error?.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED') return false;
    throw error;
  } finally {
    [work, depth] = outer;
    if (depth === 0) channel.send({ op: 'unguarded' });
  }
}

const guarded = () => depth > 0;

/** End what runs in the region without a way to catch it. */
function cut() {
  node.kill(process.pid, 'SIGINT');
  for (;;);
}

module.exports = { cut, guard, guarded, keepListening };
