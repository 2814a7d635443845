// The user's `display`: rich output by MIME type.
'use strict';

const channel = require('channel');
const values = require('values');

const { fs, global, functionPrototype, path, types } = node;

const IMAGES = {
  __proto__: null,
  '.png': 'image/png',
  '.jpg': 'image/jpeg',
  '.jpeg': 'image/jpeg',
  '.gif': 'image/gif',
  '.webp': 'image/webp',
  '.svg': 'image/svg+xml',
};
const MAX_ROWS = 1000;

let last = 0;

/** What has been shown under an id, and can be shown anew. */
class Display {
  #make;

  constructor(id, make) {
    this.id = id;
    this.#make = make;
  }

  update(value, options) {
    publish(this.#make(value, options), options, this.id, true);
    return this;
  }
}

function publish(data, options, id, update) {
  const metadata = channel.wellFormed(options?.metadata ?? {});
  channel.send({ __proto__: null, op: 'display', data, metadata, display_id: id, update });
}

/** Show what `make` gives, under an id if one is wished or to be able to update. */
function show(make, value, options) {
  const data = make(value, options);
  last += 1;
  const id = options?.id === undefined ? `display-${process.pid}-${last}` : String(options.id).toWellFormed();
  publish(data, options, id, Boolean(options?.update));
  return hide(new Display(id, make));
}

// As the last expression of a cell the handle is not a result of its own.
const handles = new WeakSet();
function hide(display) {
  handles.add(display);
  return display;
}
const isHandle = (value) => typeof value === 'object' && value !== null && handles.has(value);

const { process } = node;

const ofType = (type) => (value) => values.normal({ __proto__: null, [type]: value });

function fileBytes(file) {
  return fs.readFileSync(types.isProxy(file) ? String(file) : file);
}

// Bytes, base64, a data URL, or the path of a file.
const ofImage = (type) => (value) => {
  if (values.isBinary(value)) return values.normal({ __proto__: null, [type]: value });
  if (typeof value !== 'string') return values.normal({ __proto__: null, [type]: fileBytes(value) });
  const text = value.replace(/^data:[^,]*;base64,/, '');
  if (text !== value || (text.length % 4 === 0 && text.length >= 32 && /^[A-Za-z0-9+/\s]+={0,2}\s*$/.test(text))) {
    if (text !== value || !fs.existsSync(value)) return { __proto__: null, [type]: text.replace(/\s/g, '') };
  }
  return values.normal({ __proto__: null, [type]: fileBytes(value) });
};

function imageFile(file) {
  const type = IMAGES[path.extname(String(file)).toLowerCase()];
  if (type === undefined) {
    throw new node.TypeError(`display.image: ${file}: not one of ${Object.keys(IMAGES).join(', ')}`);
  }
  const data = fileBytes(file);
  return values.normal({ __proto__: null, [type]: type === 'image/svg+xml' ? data.utf8Slice() : data });
}

const escape = (text) =>
  String(text).replace(/[&<>"]/g, (mark) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[mark]);

const cell = (value) => (typeof value === 'string' ? value : values.text(value));

/** An array of objects or of arrays as a table. */
function table(rows) {
  if (rows === null || typeof rows !== 'object') throw new node.TypeError('display.table: not an array of rows');
  const all = Array.from(Symbol.iterator in rows ? rows : Object.values(rows));
  const shown = all.slice(0, MAX_ROWS);
  const columns = new Set();
  for (const row of shown) for (const key of Object.keys(Object(row))) columns.add(key);
  const line = (tag, cells) => `<tr>${cells.map((text) => `<${tag}>${escape(text)}</${tag}>`).join('')}</tr>`;
  const names = [...columns];
  const body = shown.map((row) => line('td', names.map((name) => cellOf(row, name))));
  const more = all.length > shown.length ? `<p>${all.length - shown.length} more rows</p>` : '';
  return values.normal({
    __proto__: null,
    'text/html': `<table><thead>${line('th', names)}</thead><tbody>${body.join('')}</tbody></table>${more}`,
    'text/plain': plainTable(shown) + (more && `\n${all.length - shown.length} more rows`),
  });
}

const cellOf = (row, name) => (row === null || row === undefined || row[name] === undefined ? '' : cell(row[name]));

// The console draws the same table as text.
function plainTable(rows) {
  let text = '';
  const sink = new node.stream.Writable();
  sink.write = (chunk) => {
    text += chunk;
    return true;
  };
  new node.Console({ stdout: sink, stderr: sink, colorMode: false }).table(rows);
  return text.trimEnd();
}

function any(value) {
  const data = values.bundle(value);
  if (types.isPromise(data)) {
    data.catch(() => {});
    throw new node.TypeError('display: the method that gives the MIME bundle is asynchronous; await it yourself');
  }
  return data;
}

const raw = (bundle) => values.normal(bundle);

function install() {
  const expose = (make, name) => {
    const shown = { [name]: (value, options) => show(make, value, options) }[name];
    Object.setPrototypeOf(shown, functionPrototype);
    return shown;
  };
  const display = expose(any, 'display');
  const kinds = {
    html: ofType('text/html'),
    png: ofImage('image/png'),
    jpeg: ofImage('image/jpeg'),
    svg: ofType('image/svg+xml'),
    json: ofType('application/json'),
    markdown: ofType('text/markdown'),
    latex: ofType('text/latex'),
    text: ofType('text/plain'),
    image: imageFile,
    table,
    raw,
  };
  for (const [name, make] of Object.entries(kinds)) display[name] = expose(make, name);
  display.clear = (options) => channel.send({ __proto__: null, op: 'clear', wait: Boolean(options?.wait) });
  Object.setPrototypeOf(display.clear, functionPrototype);
  Object.defineProperty(global, 'display', { configurable: true, writable: true, value: display });
}

module.exports = { install, isHandle };
