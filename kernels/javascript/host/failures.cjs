// What went wrong in a cell: name, value and traceback, as people read them.
'use strict';

const traces = require('traces');

const { inspect, types } = node;

const INSPECT = { __proto__: null, colors: false, maxStringLength: 10000 };
const MAX_LINE = 160;
const MAX_VALUE = 100000;

const INTERRUPTED = { name: 'KeyboardInterrupt', value: 'the run was interrupted', traceback: ['KeyboardInterrupt'] };

// A getter or a proxy of the user may throw.
function attempt(read) {
  try {
    return read();
  } catch {
    return undefined;
  }
}

function isError(value) {
  return (
    attempt(() => types.isNativeError(value) || (typeof value === 'object' && value instanceof node.Error)) ===
    true
  );
}

const cut = (text) => (text.length > MAX_VALUE ? `${text.slice(0, MAX_VALUE)}...` : text);

/** The failure that throwing `value` is. */
function describe(value) {
  const shown = attempt(() => traces.clean(inspect(value, INSPECT))) ?? '<it cannot be shown>';
  if (!isError(value)) {
    return { name: 'Uncaught', value: cut(shown), traceback: cut(`Uncaught ${shown}`).split('\n') };
  }
  const name = attempt(() => value.name);
  const message = attempt(() => value.message);
  return {
    name: typeof name === 'string' && name !== '' ? name : 'Error',
    value: typeof message === 'string' ? cut(message) : '',
    traceback: cut(shown).split('\n'),
  };
}

/** A syntax error of a cell at a line from 1 and a column from 0. */
function syntax(message, code, line, column, count) {
  const source = code.split(/\r\n|[\n\r\u2028\u2029]/)[line - 1] ?? '';
  const from = Math.max(0, Math.min(column - MAX_LINE / 2, source.length - MAX_LINE));
  const indent = source.slice(from, column).replace(/[^\t]/g, ' ');
  return {
    name: 'SyntaxError',
    value: `${message} (${line}:${column + 1})`,
    traceback: [
      `Cell In[${count}]:${line}:${column + 1}`,
      source.slice(from, from + MAX_LINE),
      `${indent.padEnd(column - from)}^`,
      '',
      `SyntaxError: ${message}`,
    ],
  };
}

module.exports = { INTERRUPTED, describe, isError, syntax };
