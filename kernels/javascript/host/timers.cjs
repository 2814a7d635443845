// Timers of cells: their callbacks can be interrupted, and an interrupted run's timers end with it.
'use strict';

const region = require('region');

const { global, timersPromises } = node;

const PURGE_EVERY = 1000;

let running = null;
let owner = null;
let interrupted = () => {};
const owned = new WeakMap();

/** The run that timers made from now on belong to; null between runs. */
function setRun(run) {
  running = run;
}

function remember(run, timer) {
  if (run === null) return;
  let known = owned.get(run);
  if (known === undefined) owned.set(run, (known = { timers: new Set(), made: 0 }));
  known.timers.add(timer);
  known.made += 1;
  if (known.made % PURGE_EVERY === 0) {
    for (const old of known.timers) if (old._destroyed) known.timers.delete(old);
  }
}

function cancel(run) {
  const known = owned.get(run);
  if (known === undefined) return;
  owned.delete(run);
  // clearTimeout takes a timer of each kind, but for setImmediate.
  for (const timer of known.timers) {
    if ('_onImmediate' in timer) node.timers.clearImmediate(timer);
    else node.timers.clearTimeout(timer);
  }
}

// While a run waits, a callback and what it resolves can be cut short as the run itself.
function invoke(run, task) {
  const before = owner;
  owner = run;
  try {
    if (running === null || running.over) {
      task();
      return;
    }
    if (!region.guard(task)) interrupted();
  } finally {
    owner = before;
  }
  region.unwind();
}

function wrap(original, repeats) {
  const { name } = original;
  const wrapped = {
    [name](callback, ...rest) {
      if (typeof callback !== 'function') return original(callback, ...rest);
      const run = owner ?? running;
      const timer = original(function (...parameters) {
        if (!repeats) owned.get(run ?? wrapped)?.timers.delete(timer);
        invoke(run, () => Reflect.apply(callback, this, parameters));
      }, ...rest);
      remember(run, timer);
      return timer;
    },
  }[name];
  Object.setPrototypeOf(wrapped, node.functionPrototype);
  return wrapped;
}

function install(onInterrupted) {
  interrupted = onInterrupted;
  const module = node.timersModule;
  const wrapped = {
    setTimeout: wrap(node.timers.setTimeout, false),
    setInterval: wrap(node.timers.setInterval, true),
    setImmediate: wrap(node.timers.setImmediate, false),
  };
  const promised = { setTimeout: timersPromises.setTimeout, setImmediate: timersPromises.setImmediate };
  const sleep = function setTimeout(delay, value, options) {
    if (options?.signal !== undefined) return promised.setTimeout(delay, value, options);
    return new node.Promise((resolve) => {
      const timer = wrapped.setTimeout(resolve, delay, value);
      if (options?.ref === false) timer.unref();
    });
  };
  const yieldTurn = function setImmediate(value, options) {
    if (options?.signal !== undefined) return promised.setImmediate(value, options);
    return new node.Promise((resolve) => {
      const timer = wrapped.setImmediate(resolve, value);
      if (options?.ref === false) timer.unref();
    });
  };
  for (const task of [sleep, yieldTurn]) Object.setPrototypeOf(task, node.functionPrototype);
  timersPromises.setTimeout = sleep;
  timersPromises.setImmediate = yieldTurn;
  for (const [name, task] of Object.entries(wrapped)) {
    module[name] = task;
    Object.defineProperty(global, name, { configurable: true, enumerable: true, writable: true, value: task });
  }
  for (const [task, custom] of [[wrapped.setTimeout, sleep], [wrapped.setImmediate, yieldTurn]]) {
    Object.defineProperty(task, node.util.promisify.custom, { enumerable: true, get: () => custom });
  }
}

module.exports = { cancel, install, setRun };
