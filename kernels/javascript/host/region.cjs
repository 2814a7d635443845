// The part of the host's life in which SIGINT cuts the code short, whatever it does.
'use strict';

const channel = require('channel');

const { vm, realm, process, startSigintWatchdog } = node;

const drain = process._tickCallback.bind(process);
// What ends within so many turns of the queue may end.
const PURGE_ROUNDS = 50;
const ready = Promise.resolve();
const UNWOUND = new node.Error('interrupted');

let work = null;
let depth = 0;
let wasCut = false;

realm.enter = () => {
  // From here on the driver may send SIGINT; before and after, it asks over the pipe.
  if (depth === 0) channel.send({ __proto__: null, op: 'guarded' });
  depth += 1;
  work();
  // Promise reactions and ticks that are due belong to the code that made them due.
  if (depth === 1) drain();
};
const script = new vm.Script('enter()', { filename: 'kernelagent:region' });
const runInContext = Function.prototype.call.bind(vm.Script.prototype.runInContext);

/**
 * Take SIGINT over for good. Node's watchdog for it starts and ends with each piece of code that may
 * be cut; around that, SIGINT would end the process, and a thread is made each time. Started once
 * more it stays, and what comes outside a region is dropped.
 */
function start() {
  startSigintWatchdog();
  // A listener of the code's would put the signal in the hands of the event loop.
  for (const event of ['newListener', 'removeListener']) {
    for (const listener of process.listeners(event)) {
      process.removeListener(event, listener);
      process.on(event, (name, ...rest) => {
        if (name !== 'SIGINT') listener(name, ...rest);
      });
    }
  }
}

/** Call `task`; false if SIGINT cut it short. What `task` throws is thrown. */
function guard(task) {
  const whole = enter(task);
  if (!whole && depth === 0) purge();
  return whole;
}

/**
 * Drop what the code that was cut short has left in the queue of promise reactions: it could go on
 * there for ever, where nothing can stop it. V8 empties the queue when a reaction is cut short.
 */
function purge() {
  let purged = false;
  let rounds = PURGE_ROUNDS;
  const again = () => {
    rounds -= 1;
    if (rounds > 0) {
      ready.then(again);
    } else if (depth > 0) {
      purged = true;
      cut();
    }
  };
  while (!purged) {
    rounds = PURGE_ROUNDS;
    enter(() => void ready.then(again));
  }
}

function enter(task) {
  const outer = [work, depth];
  work = task;
  try {
    runInContext(script, realm, { breakOnSigint: true, displayErrors: false });
    return true;
  } catch (error) {
    if (error?.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED') {
      wasCut = true;
      return false;
    }
    throw error;
  } finally {
    [work, depth] = outer;
    if (depth === 0) channel.send({ __proto__: null, op: 'unguarded' });
  }
}

const guarded = () => depth > 0;

/** Run `task`, which may call `guard`, from the event loop. */
function turn(task) {
  node.setImmediate(() => {
    task();
    unwind();
  });
}

/**
 * To be called at the end of a callback in which code may have been cut short: what Node has noted of
 * the callbacks that it was in is wrong then, and only an uncaught exception makes Node forget it.
 */
function unwind() {
  if (!wasCut) return;
  wasCut = false;
  if (!process.hasUncaughtExceptionCaptureCallback()) {
    try {
      capture(() => capture(null));
    } catch (error) {
      // With domains there can be none; the listener ignores this error.
      if (error.code !== 'ERR_DOMAIN_CANNOT_SET_UNCAUGHT_EXCEPTION_CAPTURE') throw error;
    }
  }
  throw UNWOUND;
}

const capture = process.setUncaughtExceptionCaptureCallback.bind(process);
const isUnwinding = (error) => error === UNWOUND;

const SETTLE_MS = 5;
const nothing = new Int32Array(new SharedArrayBuffer(4));
realm.pause = () => Atomics.wait(nothing, 0, 0, SETTLE_MS);
const pause = new vm.Script('pause()', { filename: 'kernelagent:region' });

/**
 * To be called after an interrupt. If SIGINT came just as a region ended, Node takes it for one in
 * the next region: let that be one in which nothing runs.
 */
function settle() {
  try {
    runInContext(pause, realm, { breakOnSigint: true, displayErrors: false });
  } catch (error) {
    if (error?.code !== 'ERR_SCRIPT_EXECUTION_INTERRUPTED') throw error;
  }
}

/** End what runs in the region without a way to catch it. */
function cut() {
  // process.kill would make Node shut its inspector down.
  channel.send({ __proto__: null, op: 'cut' });
  for (;;);
}

module.exports = { cut, guard, guarded, isUnwinding, settle, start, turn, unwind };
