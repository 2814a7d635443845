// require and import for cells: as in a file of the session's current directory.
'use strict';

const { global, process, url, vm } = node;
const { createRequire, isBuiltin } = node.module;
const runInThisContext = Function.prototype.call.bind(vm.Script.prototype.runInThisContext);

const IMPORT = '(specifier, options) => import(specifier, options)';

const here = () => `${node.cwd().replace(/\/$/, '')}/[cell].js`;
let required = ['', null];
let imported = ['', null];

// Both are made anew when the directory has changed.
function requireHere() {
  const file = here();
  if (required[0] !== file) required = [file, createRequire(file)];
  return required[1];
}

function importHere(specifier, options) {
  const file = here();
  if (imported[0] === file) return imported[1](specifier, options);
  const script = new vm.Script(IMPORT, {
    filename: file,
    importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
  });
  imported = [file, runInThisContext(script)];
  return quietly(() => imported[1](specifier, options));
}

// At its first use Node warns that this loader is experimental: nothing that a user could heed.
function quietly(task) {
  const present = Object.getOwnPropertyDescriptor(process, 'emitWarning');
  Object.defineProperty(process, 'emitWarning', { configurable: true, value: () => {} });
  try {
    return task();
  } finally {
    if (present) Object.defineProperty(process, 'emitWarning', present);
    else delete process.emitWarning;
  }
}

function resolve(specifier) {
  const text = String(specifier);
  if (isBuiltin(text)) return text.startsWith('node:') ? text : `node:${text}`;
  if (/^(\.{0,2}\/|\.{1,2}$)/.test(text)) return new url.URL(text, url.pathToFileURL(here())).href;
  if (url.URL.canParse(text)) return text;
  return url.pathToFileURL(requireHere().resolve(text)).href;
}

function install() {
  const require_ = function require(id) {
    return requireHere()(id);
  };
  Object.setPrototypeOf(require_, node.functionPrototype);
  for (const name of ['resolve', 'cache', 'extensions', 'main']) {
    Object.defineProperty(require_, name, {
      configurable: true,
      enumerable: true,
      get: () => requireHere()[name],
    });
  }
  Object.setPrototypeOf(importHere, node.functionPrototype);
  const module = Object.assign(Object.create(node.objectPrototype), {
    id: '<cell>',
    exports: Object.create(node.objectPrototype),
  });
  for (const [name, get] of [
    ['filename', here],
    ['path', () => node.cwd()],
    ['paths', () => requireHere().resolve.paths('package')],
  ]) {
    Object.defineProperty(module, name, { configurable: true, enumerable: true, get });
  }
  define('require', { writable: true, value: require_ });
  define('module', { writable: true, value: module });
  define('exports', { writable: true, value: module.exports });
  define('__dirname', { get: () => node.cwd(), set: replace('__dirname') });
  define('__filename', { get: here, set: replace('__filename') });
  // As long as `import` and `import.meta`, for which they stand in a cell, so that columns stay.
  define('ımport', { value: importHere });
  define('import·meta', {
    get: () =>
      Object.assign(Object.create(null), {
        dirname: node.cwd(),
        filename: here(),
        resolve,
        url: url.pathToFileURL(here()).href,
      }),
  });
}

function define(name, descriptor) {
  Object.defineProperty(global, name, { configurable: true, enumerable: false, ...descriptor });
}

const replace = (name) => (value) => define(name, { writable: true, value });

module.exports = { importHere, install };
