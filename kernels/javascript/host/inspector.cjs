// Evaluates code in the user's realm by the inspector of this same thread, as Node's own REPL
// and the console of a browser do: names can be declared again, and `await` works anywhere.
'use strict';

const { global } = node;

const session = new node.inspector.Session();
const post = session.post.bind(session);
let taken;
let takerId;

function start() {
  session.connect();
  const name = 'kernelagent:take';
  Object.defineProperty(global, name, { configurable: true, value: (value) => void (taken = value) });
  call('Runtime.evaluate', { expression: `globalThis[${JSON.stringify(name)}]` }, (answer) => {
    takerId = answer.result.objectId;
  });
  delete global[name];
}

/** Post; `done` gets the answer, and is called before this returns unless code is awaited. */
function call(method, parameters, done) {
  post(method, parameters, (error, answer) => {
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

module.exports = { call, lexicalNames, peek, release, start, take };
