// Starts the host. Its code runs in a realm of its own, with built-ins that the user's code cannot
// reach: a cell may replace JSON, Array.prototype.push or process and breaks only itself.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const vm = require('node:vm');

const [requests, messages] = process.argv.slice(-2).map(Number);
const options = process.argv.slice(2, -2);

const node = {
  __proto__: null,
  hostFile: __filename,
  buffer: require('node:buffer'),
  childProcess: require('node:child_process'),
  console,
  Console: console.Console,
  Error,
  Promise,
  TypeError,
  SyntaxError,
  emit: process.emit.bind(process),
  env: process.env,
  fs: { ...fs },
  functionPrototype: Function.prototype,
  global: globalThis,
  inspector: require('node:inspector'),
  kill: process.kill.bind(process),
  module: require('node:module'),
  net: require('node:net'),
  nextTick: process.nextTick.bind(process),
  path: { ...path },
  process,
  promiseHooks: { ...require('node:v8').promiseHooks },
  reallyExit: process.reallyExit.bind(process),
  setImmediate,
  symbolFor: Symbol.for,
  objectPrototype: Object.prototype,
  mapPrototype: Map.prototype,
  setPrototype: Set.prototype,
  startSigintWatchdog: process.binding('contextify').startSigintWatchdog,
  stream: require('node:stream'),
  timers: { ...require('node:timers') },
  timersModule: require('node:timers'),
  timersPromises: require('node:timers/promises'),
  types: { ...require('node:util').types },
  url: { ...require('node:url') },
  util: require('node:util'),
  importModule: (specifier, importOptions) => import(specifier, importOptions),
  vm,
};
node.inspect = node.util.inspect;
node.chdir = process.chdir.bind(process);
node.cwd = process.cwd.bind(process);

const { Buffer } = node.buffer;
const { TextDecoder, TextEncoder } = node.util;
const realm = vm.createContext({ __proto__: null, Buffer, TextDecoder, TextEncoder });
node.vm = { ...vm };
node.runInContext = Function.prototype.call.bind(vm.Script.prototype.runInContext);
const loaded = new Map();

/** The module `name` of the host, or `file` of a package, in the realm of the host. */
function load(name, file = `${__dirname}/${name}.cjs`) {
  let module = loaded.get(name);
  if (module === undefined) {
    module = { exports: {} };
    loaded.set(name, module);
    const code = node.fs.readFileSync(file, 'utf8');
    const wrapped = `(function (module, exports, require, node) {${code}\n})`;
    const body = node.runInContext(new node.vm.Script(wrapped, { filename: file }), realm);
    const folder = path.dirname(file);
    const inner = (wanted) => {
      if (folder === __dirname) return load(wanted);
      return wanted.startsWith('./') ? load(`${name}/${wanted}`, `${folder}/${wanted.slice(2)}`) : require(wanted);
    };
    body(module, module.exports, inner, node);
  }
  return module.exports;
}

node.realm = realm;
node.loadPackage = (name, file) =>
  load(name, `${path.dirname(__dirname)}/node_modules/${name}/${file}`);
load('host').start({
  requests,
  messages,
  typescript: options.includes('--typescript'),
});
