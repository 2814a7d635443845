// How a value is shown: MIME bundles.
'use strict';

const channel = require('channel');

const { inspect, types } = node;

const METHODS = [node.symbolFor('Jupyter.display'), 'toMimeBundle', '_toMime'];
const MAX_JSON = 1000000;
const MAX_JSON_VALUES = 50000;

const text = (value) => inspect(value, { __proto__: null, showProxy: true, colors: false });

const isJsonType = (type) => /^application\/(.*\+)?json$/.test(type);
const isBinary = (value) => ArrayBuffer.isView(value) || types.isAnyArrayBuffer(value);

/** `value` as JSON holds it, or undefined: too large, circular, or nothing that JSON knows. */
function json(value) {
  let count = 0;
  let written;
  try {
    written = JSON.stringify(value, (_, inner) => {
      count += 1;
      if (count > MAX_JSON_VALUES) throw new Error('too large');
      return inner;
    });
  } catch {
    return undefined;
  }
  if (written === undefined || written.length > MAX_JSON) return undefined;
  return channel.wellFormed(JSON.parse(written));
}

function isPlain(value) {
  if (value === null || typeof value !== 'object' || types.isProxy(value)) return false;
  if (Array.isArray(value)) return true;
  const prototype = Object.getPrototypeOf(value);
  return prototype === null || prototype === node.objectPrototype;
}

/** A bundle by MIME type with each value in the form that a Jupyter message has. */
function normal(bundle) {
  const data = { __proto__: null };
  for (const type of Object.keys(bundle)) {
    const value = bundle[type];
    if (value === undefined || value === null) continue;
    if (isBinary(value)) data[type] = channel.encode(value);
    else if (isJsonType(type)) data[type] = strictJson(value);
    else data[type] = String(value).toWellFormed();
  }
  return data;
}

function strictJson(value) {
  const written = JSON.stringify(value);
  if (written === undefined) throw new node.TypeError('the value has no JSON form');
  return channel.wellFormed(JSON.parse(written));
}

function bundleMethod(value) {
  if (value === null || (typeof value !== 'object' && typeof value !== 'function')) return undefined;
  // Any property of a proxy may be code, or seem to be there.
  if (types.isProxy(value)) return undefined;
  for (const name of METHODS) {
    const method = value[name];
    if (typeof method === 'function') return method;
  }
  return undefined;
}

/**
 * The bundle of `value`, or a promise for what the value's own method gives asynchronously; pass
 * that to `finish`.
 */
function bundle(value) {
  const method = bundleMethod(value);
  if (method === undefined) return plainBundle(value);
  const own = method.call(value);
  return types.isPromise(own) ? own : finish(value, own);
}

function finish(value, own) {
  if (own === null || typeof own !== 'object') return plainBundle(value);
  const data = normal(own);
  if (Object.keys(data).length === 0) return plainBundle(value);
  return 'text/plain' in data ? data : { __proto__: null, 'text/plain': text(value).toWellFormed(), ...data };
}

function plainBundle(value) {
  const data = { __proto__: null, 'text/plain': text(value).toWellFormed() };
  if (isPlain(value)) {
    const form = json(value);
    if (form !== undefined) data['application/json'] = form;
  }
  return data;
}

module.exports = { bundle, finish, isBinary, normal, text };
