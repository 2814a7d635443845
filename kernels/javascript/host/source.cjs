// Turns a cell into what the inspector evaluates: types stripped, imports taken out. Positions stay.
'use strict';

const failures = require('failures');

const { vm } = node;

const MODULE_WORDS = /\b(?:import|export)\b/;
const PARSE = {
  ecmaVersion: 'latest',
  sourceType: 'script',
  allowAwaitOutsideFunction: true,
  allowImportExportEverywhere: true,
  allowHashBang: true,
};

const JSX = /(?:[=(,?:]|=>|return|&&|\|\|)\s*<\/?[A-Za-z][\w.]*[\s>/]/;

const acorn = () => node.loadPackage('acorn', 'dist/acorn.js');

/** The tree of `code`, with each import, export and import.meta found in it. */
function parse(code) {
  const found = [];
  const { Parser } = acorn();
  class Finder extends Parser {
    finishNode(item, type) {
      const done = super.finishNode(item, type);
      if (/^(Import(Declaration|Expression)|MetaProperty|Export.*Declaration)$/.test(type)) found.push(done);
      return done;
    }

    // A cell may name what another one has declared.
    checkLocalExport() {}

    checkExport() {}
  }
  return { tree: Finder.parse(code, PARSE), found };
}

/**
 * `{code, imports, map}`, or `{failure}`: each import is `{specifier, options, names, line}`, with
 * names as `[imported, local]` and `*` for the namespace; `map` corrects positions.
 */
function prepare(code, typescript, count) {
  let map;
  let imports = [];
  if (typescript) {
    const stripped = strip(code, count);
    if (stripped.failure) return stripped;
    ({ code, map } = stripped);
  }
  if (MODULE_WORDS.test(code)) {
    let parsed;
    try {
      parsed = parse(code);
    } catch (error) {
      if (error.loc === undefined) throw error;
      // Where only dynamic imports could be meant, V8's own message is the better one.
      if (!/^\s*(import\s*[\w{*'"]|export\b)/m.test(code)) return { code, imports, map };
      const message = error.message.replace(/ \(\d+:\d+\)$/, '');
      return { failure: failures.syntax(message, code, error.loc.line, error.loc.column, count) };
    }
    const edited = takeOut(code, parsed, count);
    if (edited.failure) return edited;
    ({ code, imports } = edited);
  }
  return { ...asExpression(code, map), imports };
}

function takeOut(code, { tree, found }, count) {
  const top = new Set(tree.body);
  const edits = [];
  const imports = [];
  for (const item of found) {
    if (item.type === 'ImportExpression') {
      edits.push([item.start, item.start + 6, 'ımport']);
    } else if (item.type === 'MetaProperty') {
      if (item.meta.name === 'import') edits.push([item.start, item.end, 'import·meta'.padEnd(item.end - item.start)]);
    } else if (!top.has(item)) {
      return refuse(code, item, count, `${word(item)} may only stand at the top of a cell, outside any block`);
    } else if (item.type === 'ImportDeclaration') {
      imports.push(describe(code, item));
      edits.push([item.start, item.end, '']);
    } else if (item.source) {
      return refuse(code, item, count, 'a cell cannot export from a module: nothing could import it; use import');
    } else if (item.type === 'ExportNamedDeclaration') {
      edits.push([item.start, item.declaration ? item.declaration.start : item.end, '']);
    } else {
      const value = item.declaration;
      const named = /Declaration$/.test(value.type) && value.id;
      edits.push([item.start, value.start, named ? '' : '(']);
      if (!named) edits.push([value.end, value.end, ')']);
    }
  }
  return { code: edit(code, edits), imports };
}

const word = (item) => (item.type.startsWith('Import') ? 'import' : 'export');

function refuse(code, item, count, message) {
  const before = code.slice(0, item.start).split('\n');
  return { failure: failures.syntax(message, code, before.length, before.at(-1).length, count) };
}

/** Replace ranges, each filled up with blanks to the length that it had; line ends stay. */
function edit(code, edits) {
  let done = '';
  let position = 0;
  for (const [start, end, text] of edits.sort((one, other) => one[0] - other[0] || one[1] - other[1])) {
    const blank = code.slice(start, end).replace(/[^\n\r\u2028\u2029]/g, ' ');
    done += code.slice(position, start) + (text && text.length <= blank.length ? place(blank, text) : text || blank);
    position = end;
  }
  return done + code.slice(position);
}

// At the end of the blanks: `(` must stand on the line of what it opens.
const place = (blank, text) => blank.slice(0, blank.length - text.length) + text;

function describe(code, item) {
  const names = item.specifiers.map(({ type, imported, local }) => [
    { ImportDefaultSpecifier: 'default', ImportNamespaceSpecifier: '*' }[type] ?? imported.name ?? imported.value,
    local.name,
  ]);
  const attributes = (item.attributes ?? []).map(({ key, value }) => [key.name ?? key.value, value.value]);
  const before = code.slice(0, item.start);
  const line = before.split('\n').length;
  return {
    specifier: item.source.value,
    options: attributes.length > 0 ? { with: Object.fromEntries(attributes) } : undefined,
    names,
    line,
    column: item.start - before.lastIndexOf('\n'),
  };
}

/** As in Node's REPL, what looks like an object literal is one. */
function asExpression(code, map) {
  if (!/^\s*\{/.test(code) || /;\s*$/.test(code)) return { code, map };
  const wrapped = `(${code}\n)`;
  try {
    new vm.Script(`async () => ${wrapped}`);
  } catch {
    return { code, map };
  }
  const inner = map ?? ((line, column) => [line, column]);
  return { code: wrapped, map: (line, column) => inner(line, line === 1 ? column - 1 : column) };
}

const amaro = () => node.loadPackage('amaro', 'dist/index.js');

const SHEBANG = /^#!.*/;
const hideShebang = (line) => `//${line.slice(2)}`;

/** JavaScript for `code`; positions stay, except where enums and the like must be transformed. */
function strip(code, count) {
  // Amaro takes no shebang.
  const hidden = code.replace(SHEBANG, hideShebang);
  try {
    return { code: amaro().transformSync(hidden, { mode: 'strip-only' }).code };
  } catch (error) {
    if (error.code !== 'UnsupportedSyntax') return { failure: typeFailure(error, code, count) };
  }
  try {
    const done = amaro().transformSync(hidden, { mode: 'transform', sourceMap: true });
    const source = new node.module.SourceMap(JSON.parse(done.map));
    const map = (line, column) => {
      const entry = source.findEntry(line - 1, column - 1);
      return entry.originalLine === undefined ? [line, column] : [entry.originalLine + 1, entry.originalColumn + 1];
    };
    return { code: done.code, map };
  } catch (error) {
    return { failure: typeFailure(error, code, count) };
  }
}

function typeFailure(error, code, count) {
  if (error.startLine === undefined) {
    return failures.syntax(String(error.message ?? error), code, 1, 0, count);
  }
  const line = code.split('\n')[error.startLine - 1] ?? '';
  // The stripper reads a tag as a type assertion and complains of what follows it.
  const message = JSX.test(line.slice(0, error.startColumn + 1))
    ? `${error.message} (JSX is not supported)`
    : error.message;
  return failures.syntax(message, code, error.startLine, error.startColumn, count);
}

/** complete, incomplete or invalid. */
function completeness(code, typescript) {
  let text = code;
  if (typescript) {
    try {
      text = amaro().transformSync(code.replace(SHEBANG, hideShebang), { mode: 'transform' }).code;
    } catch (error) {
      if (/^Unterminated (template|block comment)/.test(error.message)) return 'incomplete';
      const lines = code.trimEnd().split('\n');
      const atEnd = error.startLine === lines.length && error.startColumn >= lines.at(-1).length - 1;
      return atEnd && /eof|^Expect/.test(error.message) ? 'incomplete' : 'invalid';
    }
  }
  try {
    acorn().parse(text, PARSE);
    return 'complete';
  } catch (error) {
    if (error.loc === undefined) throw error;
    if (/^Unterminated (template|comment)/.test(error.message)) return 'incomplete';
    return error.pos >= text.trimEnd().length ? 'incomplete' : 'invalid';
  }
}

/**
 * `code` with the declarations of `name` turned into another kind, so that it can be declared
 * although another cell has declared it in a way that V8 lets nobody repeat; null if not found.
 */
function redeclare(code, name, kind) {
  let tree;
  try {
    ({ tree } = parse(code));
  } catch {
    // Declared twice in this very cell: V8's own message stands.
    return null;
  }
  const edits = [];
  for (const item of tree.body) {
    if (item.type === 'VariableDeclaration' && declares(item, name)) {
      edits.push([item.start, item.start + item.kind.length, kind]);
    } else if (/^(Function|Class)Declaration$/.test(item.type) && item.id.name === name) {
      edits.push([item.start, item.start, `${kind} ${name} = `], [item.end, item.end, ';']);
    }
  }
  return edits.length > 0 ? edit(code, edits) : null;
}

function declares(item, name) {
  const names = [];
  const walk = (pattern) => {
    if (!pattern) return;
    if (pattern.type === 'Identifier') names.push(pattern.name);
    else if (pattern.type === 'ObjectPattern') pattern.properties.forEach((part) => walk(part.value ?? part.argument));
    else if (pattern.type === 'ArrayPattern') pattern.elements.forEach(walk);
    else walk(pattern.left ?? pattern.argument);
  };
  item.declarations.forEach((part) => walk(part.id));
  return names.includes(name);
}

module.exports = { completeness, prepare, redeclare };
