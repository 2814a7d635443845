// What a session holds: completion, inspection and the list of its variables. Runs no getters.
'use strict';

const inspector = require('inspector');

const { fs, global, inspect, path, types } = node;
const { builtinModules } = node.module;

const KEYWORDS = (
  'async await break case catch class const continue debugger default delete do else export extends false ' +
  'finally for function if import in instanceof let new null of return static super switch this throw true ' +
  'try typeof undefined var void while with yield'
).split(' ');
const CHAIN = /((?:[\p{ID_Start}$_][\p{ID_Continue}$\u200c\u200d]*\s*(?:\?\.|\.)\s*)*)([\p{ID_Start}$_][\p{ID_Continue}$\u200c\u200d]*)?$/u;
const PATH = /(?:\brequire\s*\(\s*|\bimport\s*\(\s*|\bfrom\s+|\bimport\s+)(['"`])([^'"`\n]*)$/;
const NAME = /^[\p{ID_Start}$_][\p{ID_Continue}$\u200c\u200d]*$/u;
const MAX_MATCHES = 1000;
const MAX_PREVIEW = 120;
const MAX_SOURCE_LINES = 20;

const functionText = Function.prototype.call.bind(node.functionPrototype.toString);
const known = new Set();

/** Remember the globals that no cell has made. */
function remember() {
  for (const name of Object.getOwnPropertyNames(global)) known.add(name);
}

// Offsets in requests count code points, those of strings UTF-16 units.
const points = (text) => Array.from(text).length;
const before = (code, cursor) => Array.from(code).slice(0, cursor).join('');

function complete(code, cursor) {
  const text = before(code, cursor);
  const inPath = PATH.exec(text);
  if (inPath !== null) return answer(modulePaths(inPath[2]), inPath[2], cursor);
  const [, chain, word = ''] = CHAIN.exec(text);
  if (chain !== '') return answer(membersOf(chain), word, cursor);
  if (/\.\s*$/.test(text.slice(0, text.length - word.length))) return answer([], word, cursor);
  const names = [...inspector.lexicalNames(), ...namesOf(global), ...KEYWORDS];
  return answer(names.filter((name) => NAME.test(name) && !/·|ı/.test(name)), word, cursor);
}

function answer(names, word, cursor) {
  const matches = [...new Set(names.filter((name) => name.startsWith(word)))].sort();
  return { matches: matches.slice(0, MAX_MATCHES), start: cursor - points(word), end: cursor };
}

function modulePaths(written) {
  if (/^\.{0,2}\//.test(written)) {
    const folder = written.slice(0, written.lastIndexOf('/') + 1);
    return entries(path.resolve(folder || '.')).map((entry) => folder + entry);
  }
  const found = [...builtinModules.filter((name) => !name.startsWith('_')), ...builtinModules.map((name) => `node:${name.replace(/^node:/, '')}`)];
  for (let folder = node.cwd(); ; folder = path.dirname(folder)) {
    const packages = path.join(folder, 'node_modules');
    for (const entry of entries(packages)) {
      if (entry.startsWith('.')) continue;
      if (entry.startsWith('@')) found.push(...entries(path.join(packages, entry)).map((inner) => entry + inner));
      found.push(entry.replace(/\/$/, ''));
    }
    if (folder === path.dirname(folder)) return found;
  }
}

function entries(folder) {
  try {
    return fs
      .readdirSync(folder, { withFileTypes: true })
      .map((entry) => (entry.isDirectory() ? `${entry.name}/` : entry.name));
  } catch {
    return [];
  }
}

function namesOf(value) {
  const names = [];
  for (let owner = Object(value); owner !== null && !types.isProxy(owner); owner = Object.getPrototypeOf(owner)) {
    names.push(...Object.getOwnPropertyNames(owner));
    if (names.length > 100 * MAX_MATCHES) break;
  }
  return names;
}

function membersOf(chain) {
  const found = resolve(chain.split(/\?\.|\./).map((part) => part.trim()).slice(0, -1));
  if (found === null || found[0] === null || found[0] === undefined) return [];
  return namesOf(found[0]).filter((name) => NAME.test(name));
}

/** What a chain of names leads to, as [value]; null if that cannot be told without running code. */
function resolve([first, ...rest]) {
  const found = KEYWORDS.includes(first) && first !== 'this' ? null : inspector.peek(first);
  return rest.reduce((held, name) => (held === null ? null : member(held[0], name)), found);
}

function member(value, name) {
  if (value === null || value === undefined) return null;
  for (let owner = Object(value); owner !== null && !types.isProxy(owner); owner = Object.getPrototypeOf(owner)) {
    const descriptor = Object.getOwnPropertyDescriptor(owner, name);
    if (descriptor !== undefined) return 'value' in descriptor ? [descriptor.value] : null;
  }
  return null;
}

function inspectAt(code, cursor) {
  const text = before(code, cursor);
  const rest = code.slice(text.length);
  const word = /^[\p{ID_Continue}$]*/u.exec(rest)[0];
  const [, chain, last = ''] = CHAIN.exec(text);
  const name = last + word;
  // After the opening parenthesis of a call, the function is meant.
  if (name === '') return /[(,]\s*$/.test(text) ? inspectAt(text.replace(/\s*\([^()]*$/, ''), cursor) : null;
  const parts = chain.split(/\?\.|\./).map((part) => part.trim()).slice(0, -1);
  const found = resolve([...parts, name]);
  if (found === null) return null;
  return { 'text/plain': `${[...parts, name].join('.')}: ${description(found[0])}`.toWellFormed() };
}

function description(value) {
  if (typeof value !== 'function' || types.isProxy(value)) return `${typeName(value)}\n${shown(value, 2, 10000)}`;
  const lines = functionText(value).split('\n');
  const more = lines.length > MAX_SOURCE_LINES ? '\n...' : '';
  return `${typeName(value)}\n${lines.slice(0, MAX_SOURCE_LINES).join('\n').slice(0, 4000)}${more}`;
}

function shown(value, depth, length) {
  try {
    return inspect(value, {
      __proto__: null,
      customInspect: false,
      depth,
      getters: false,
      maxArrayLength: 20,
      maxStringLength: length,
      breakLength: depth > 1 ? 100 : Infinity,
      compact: depth > 1 ? 3 : true,
    });
  } catch {
    return '<it cannot be shown>';
  }
}

/** `class` or `function` for functions; the constructor's name for objects. */
function typeName(value) {
  if (value === null) return 'null';
  if (typeof value === 'function') {
    return !types.isProxy(value) && functionText(value).startsWith('class') ? 'class' : 'function';
  }
  if (typeof value !== 'object') return typeof value;
  if (types.isProxy(value)) return 'Proxy';
  if (types.isModuleNamespaceObject(value)) return 'module';
  const maker = member(value, 'constructor')?.[0];
  const name = typeof maker === 'function' && Object.getOwnPropertyDescriptor(maker, 'name')?.value;
  return typeof name === 'string' && name !== '' ? name.slice(0, 200).toWellFormed() : 'Object';
}

const sizeOf = (prototype, name) => Function.prototype.call.bind(Object.getOwnPropertyDescriptor(prototype, name).get);
const mapSize = sizeOf(node.mapPrototype, 'size');
const setSize = sizeOf(node.setPrototype, 'size');

function shapeOf(value) {
  if (types.isProxy(value)) return null;
  if (Array.isArray(value) || types.isTypedArray(value)) return [value.length];
  if (types.isMap(value)) return [mapSize(value)];
  return types.isSet(value) ? [setSize(value)] : null;
}

function bytesOf(value) {
  if (types.isProxy(value)) return null;
  return ArrayBuffer.isView(value) || types.isAnyArrayBuffer(value) ? value.byteLength : null;
}

function variable(name, value) {
  const text = shown(value, 1, MAX_PREVIEW).replace(/\s+/g, ' ');
  const preview = text.length > MAX_PREVIEW ? `${text.slice(0, MAX_PREVIEW - 1)}…` : text;
  return {
    name: name.slice(0, 500).toWellFormed(),
    type: typeName(value),
    shape: shapeOf(value),
    size: bytesOf(value),
    preview: preview.toWellFormed(),
  };
}

function variables(limit) {
  const globals = Object.getOwnPropertyNames(global).filter((name) => !known.has(name));
  const names = [...new Set([...inspector.lexicalNames(), ...globals])].filter((name) => !name.startsWith('_'));
  const found = [];
  for (const name of names.slice(0, Math.max(0, limit))) {
    const held = NAME.test(name) ? inspector.peek(name) : member(global, name);
    // A name whose declaration has not run, or a getter, has no value that could be told.
    if (held !== null) found.push(variable(name, held[0]));
  }
  return { variables: found, total: names.length, truncated: names.length > limit };
}

module.exports = { complete, inspectAt, remember, variables };
