// Evaluates code in the user's realm by the inspector of this same thread, as Node's own REPL
// and the console of a browser do: names can be declared again, and `await` works anywhere.
'use strict';

const { global } = node;

const { onInit } = node.promiseHooks;

const TAKE = 'import·take';

let session = null;
let post;
let taken;
let takerId;
let held = null;
let stopWaiting = () => {};
const kept = [];

function start() {
  // Kept, as a frozen global object would not take it anew.
  Object.defineProperty(global, TAKE, { value: (value) => void (taken = value) });
  connect();
}

function use(wanted) {
  session = wanted;
  post = (...parameters) => Reflect.apply(session.post, session, parameters);
  call('Runtime.evaluate', { expression: TAKE }, (answer) => {
    takerId = answer.result.objectId;
  });
}

function connect() {
  takerId = undefined;
  const fresh = new node.inspector.Session();
  fresh.connect();
  use(fresh);
}

/** Forget what is still awaited. */
function restart() {
  stopWaiting();
  const old = session;
  try {
    connect();
    old.disconnect();
  } catch {
    // User code has broken what Node needs for that. A session that lives on must not see its promise
    // collected.
    kept.push(held);
    if (takerId === undefined) use(old);
  }
  held = null;
}

/** Evaluate a cell; `done` gets the answer once the cell has ended. */
function evaluate(expression, done) {
  // When the promise of a cell that waits for ever is collected, the inspector tells so from within
  // the garbage collection, which is fatal. It is the first that the evaluation makes.
  const stop = onInit((promise) => {
    stop();
    held = promise;
  });
  // The code may be cut short before it makes one.
  stopWaiting = stop;
  call('Runtime.evaluate', { expression, replMode: true, awaitPromise: true }, (answer) => {
    held = null;
    done(answer);
  });
  stop();
}

/** Post; `done` gets the answer, and is called before this returns unless code is awaited. */
function call(method, parameters, done) {
  const asked = session;
  post(method, parameters, (error, answer) => {
    if (asked !== session) return;
    if (error) throw new Error(`${method}: ${error.message}`);
    done(answer);
  });
}

/** The value that a remote object of the inspector stands for. */
function take(remote) {
  if (remote.objectId === undefined) {
    if (remote.unserializableValue === undefined) return remote.value;
  }
  const argument =
    remote.objectId !== undefined
      ? { objectId: remote.objectId }
      : { unserializableValue: remote.unserializableValue };
  taken = undefined;
  call(
    'Runtime.callFunctionOn',
    {
      objectId: takerId,
      functionDeclaration: 'function (value) { this(value) }',
      arguments: [argument],
    },
    () => {},
  );
  const value = taken;
  taken = undefined;
  return value;
}

function release(remote) {
  if (remote.objectId !== undefined) {
    call('Runtime.releaseObject', { objectId: remote.objectId }, () => {});
  }
}

/** Names declared by let, const and class. */
function lexicalNames() {
  let names = [];
  call('Runtime.globalLexicalScopeNames', {}, (answer) => {
    // Copied into this realm: user code may have changed how its own arrays are read.
    names = Array.from({ length: answer.names.length }, (_, index) => answer.names[index]);
  });
  return names;
}

/** What `name` holds, as [value], without running code of the user; null if that cannot be told. */
function peek(name) {
  let found = null;
  call(
    'Runtime.evaluate',
    { expression: name, throwOnSideEffect: true, silent: true },
    (answer) => {
      if (answer.exceptionDetails === undefined) found = [take(answer.result)];
      else if (answer.exceptionDetails.exception) release(answer.exceptionDetails.exception);
      release(answer.result);
    },
  );
  return found;
}

module.exports = { evaluate, lexicalNames, peek, release, restart, start, take };
