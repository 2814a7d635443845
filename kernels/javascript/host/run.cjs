// One run of a cell, from its request to its reply.
'use strict';

const channel = require('channel');
const display = require('display');
const failures = require('failures');
const input = require('input');
const inspector = require('inspector');
const modules = require('modules');
const region = require('region');
const scope = require('scope');
const source = require('source');
const timers = require('timers');
const traces = require('traces');
const values = require('values');

const { process, types } = node;
const then = Function.prototype.call.bind(node.Promise.prototype.then);

const DECLARED = /^Identifier '(.+)' has already been declared$/;

let run = null;
let typescript = false;
let binding;
let disturbed = false;

function begin(request) {
  try {
    scope.enter(request.env, request.cwd);
  } catch (error) {
    if (!(error instanceof scope.ScopeError)) throw error;
    channel.send({ __proto__: null, op: 'reply', id: request.id, scope_error: error.message });
    return;
  }
  if (disturbed) region.settle();
  disturbed = false;
  run = { id: request.id, count: request.count, silent: request.silent, code: request.code, over: false, exit: null };
  timers.setRun(run);
  input.setRun(run);
  const current = run;
  turn(current, () => {
    const prepared = source.prepare(request.code, typescript, request.count);
    if (prepared.failure) fail(current, prepared.failure);
    else importNext(current, prepared, 0);
  });
}

/** Go on with the run from the event loop; whatever fails in the host itself ends the run. */
function turn(current, task) {
  region.turn(() => {
    if (current.over) return;
    try {
      task();
    } catch (error) {
      fail(current, failures.describe(error));
    }
  });
}

// One after the other, as their order is what a module promises.
function importNext(current, prepared, index) {
  if (current.over) return;
  if (index === prepared.imports.length) {
    evaluate(current, prepared.code, prepared.map);
    return;
  }
  const wanted = prepared.imports[index];
  const failed = (error) => {
    if (current.over) return;
    const failure = failures.describe(error);
    const place = `    at Cell In[${current.count}]:${wanted.line}:${wanted.column}`;
    fail(current, { ...failure, traceback: [...failure.traceback, place] });
  };
  let module;
  const whole = region.guard(() => {
    module = modules.importHere(wanted.specifier, wanted.options);
  });
  if (!whole) return stopped(current);
  then(
    module,
    (namespace) => {
      if (current.over) return;
      const missing = wanted.names.find(([name]) => name !== '*' && !typescript && !(name in namespace));
      if (missing !== undefined) {
        const text = `The requested module '${wanted.specifier}' does not provide an export named '${missing[0]}'`;
        failed(new node.SyntaxError(text));
        return;
      }
      turn(current, () => {
        bind(current, namespace, wanted.names, () => importNext(current, prepared, index + 1));
      });
    },
    failed,
  );
}

function bind(current, namespace, names, done) {
  if (names.length === 0) return done();
  const given = { __proto__: null };
  names.forEach(([name, local], index) => {
    given[`n${index}`] = name === '*' ? namespace : namespace[name];
  });
  binding = given;
  const code = `const { ${names.map(([, local], index) => `n${index}: ${local}`).join(', ')} } = import·names;`;
  evaluateIn(current, code, undefined, () => {
    binding = undefined;
    done();
  });
}

function evaluate(current, code, map) {
  evaluateIn(current, code, map, (value) => settled(current, value));
}

/** Evaluate; `done` gets the value unless the code failed or was stopped. */
function evaluateIn(current, code, map, done, tried = []) {
  const name = traces.nameCell(current.count, map);
  attempt(current, (settle) => {
    inspector.evaluate(`${code}\n//# sourceURL=${name}`, (answer) => {
      settle(() => evaluated(current, code, map, answer, done, tried));
    });
  });
}

function evaluated(current, code, map, { result, exceptionDetails }, done, tried) {
  if (exceptionDetails === undefined) {
    const value = inspector.take(result);
    inspector.release(result);
    done(value);
    return;
  }
  const error = inspector.take(exceptionDetails.exception);
  inspector.release(exceptionDetails.exception);
  const early = exceptionDetails.scriptId !== undefined && exceptionDetails.exception.className === 'SyntaxError';
  if (early) refused(current, code, map, exceptionDetails, error, done, tried);
  else thrown(current, error);
}

/** Have `settle` called with what follows once `promise` is settled. */
function watch(current, promise, settle, done) {
  then(
    promise,
    (value) => settle(() => done(value)),
    (error) => settle(() => thrown(current, error)),
  );
}

/** Do something in the region; what it settles with follows outside of it, now or later. */
function attempt(current, start) {
  let next = null;
  let inside = true;
  const whole = region.guard(() => {
    start((given) => {
      if (inside) next = given;
      else turn(current, given);
    });
  });
  inside = false;
  if (!whole) stopped(current);
  else if (next !== null) next();
}

/** The code did not compile. */
function refused(current, code, map, details, error, done, tried) {
  const message = String(error.message);
  const name = DECLARED.exec(message)?.[1];
  if (name !== undefined) {
    // V8 repeats a declaration only as the kind that it was, which nothing tells.
    const kinds = inspector.lexicalNames().includes(name) ? ['let', 'const'] : ['var'];
    const kind = kinds.find((each) => !tried.includes(`${each} ${name}`));
    const other = kind === undefined ? null : source.redeclare(code, name, kind);
    if (other !== null) return evaluateIn(current, other, map, done, [...tried, `${kind} ${name}`]);
  }
  // JSON.parse and eval throw syntax errors, too, with frames of the cell.
  if (hasFrames(error)) return thrown(current, error);
  const [line, column] = [details.lineNumber + 1, details.columnNumber + 1];
  const [row, offset] = map ? map(line, column) : [line, column];
  fail(current, failures.syntax(message, current.code, row, offset - 1, current.count));
  return undefined;
}

function hasFrames(error) {
  try {
    return String(error.stack).includes('\n    at ');
  } catch {
    return false;
  }
}

function thrown(current, error) {
  let failure;
  const whole = region.guard(() => {
    failure = failures.describe(error);
  });
  if (whole) fail(current, failure);
  else stopped(current);
}

function settled(current, value) {
  if (types.isPromise(value)) {
    attempt(current, (settle) => watch(current, value, settle, (inner) => settled(current, inner)));
  } else if (current.silent || value === undefined || display.isHandle(value)) {
    succeed(current);
  } else {
    show(current, () => values.bundle(value), value);
  }
}

function show(current, make, value) {
  let data;
  let failure = null;
  const whole = region.guard(() => {
    try {
      data = make();
    } catch (error) {
      failure = failures.describe(error);
    }
  });
  if (!whole) stopped(current);
  else if (failure !== null) fail(current, failure);
  else if (types.isPromise(data)) {
    then(
      data,
      (own) => turn(current, () => show(current, () => values.finish(value, own), value)),
      (error) => current.over || fail(current, failures.describe(error)),
    );
  } else {
    channel.send({ __proto__: null, op: 'result', data, metadata: {} });
    succeed(current);
  }
}

const succeed = (current) => end(current, {});
const fail = (current, failure) => end(current, { failure, exit_code: 1 });

/** The code was cut short: by an interrupt, or by its own process.exit. */
function stopped(current) {
  disturbed = true;
  if (current.over) return;
  if (current.exit !== null) {
    end(current, { exit_code: current.exit });
  } else {
    timers.cancel(current);
    end(current, { failure: failures.INTERRUPTED, exit_code: 130 });
  }
}

function end(current, reply) {
  if (current.over) return;
  current.over = true;
  // What is due by now, such as process.nextTick and rejections nobody handles, is part of the run.
  node.setImmediate(() => {
    timers.setRun(null);
    input.setRun(null);
    run = null;
    scope.leave();
    if (disturbed) inspector.restart();
    const status = Number(process.exitCode ?? 0);
    process.exitCode = undefined;
    channel.send({
      __proto__: null,
      op: 'reply',
      id: current.id,
      exit_code: status,
      ...reply,
    });
  });
}

/** The driver asks to stop the run `id`, which waits. */
function interrupt(id) {
  disturbed = true;
  if (run !== null && run.id === id) stopped(run);
}

const EXITED = 'process.exit was called';

function exit(code) {
  const status = Number(code ?? process.exitCode ?? 0) & 255;
  if (run !== null && !run.over) {
    run.exit = status;
    if (region.guarded()) region.cut();
    stopped(run);
  }
  // Code that waited goes no further.
  const error = new node.Error(EXITED);
  exits.add(error);
  throw error;
}

const exits = new WeakSet();
const isExit = (error) => typeof error === 'object' && error !== null && exits.has(error);

function install(options) {
  // Defined once: a frozen global object takes no more properties.
  Object.defineProperty(node.global, 'import·names', { get: () => binding });
  ({ typescript } = options);
  timers.install(() => run !== null && stopped(run));
  const kill = function kill(pid, signal) {
    const itself = Number(pid) === process.pid && (signal === 'SIGINT' || signal === 2);
    if (!itself || run === null || run.over) return node.kill(pid, signal);
    if (region.guarded()) region.cut();
    stopped(run);
    return true;
  };
  Object.setPrototypeOf(kill, node.functionPrototype);
  process.kill = kill;
  for (const name of ['exit', 'reallyExit']) {
    const task = { [name]: (code) => exit(code) }[name];
    Object.setPrototypeOf(task, node.functionPrototype);
    Object.defineProperty(process, name, { configurable: true, writable: true, enumerable: true, value: task });
  }
}

module.exports = { begin, install, interrupt, isExit };
