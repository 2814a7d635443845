// Stack traces in the lines of the cells: `Cell In[3]:2:7`, without frames of the host.
'use strict';

const { global, path } = node;

const CELL = /kernelagent:cell\/(\d+)\/(\d+)(?::(\d+):(\d+))?/g;
const MAPS_KEPT = 500;

const maps = new Map();
let serial = 0;
const errorToString = Function.prototype.call.bind(node.Error.prototype.toString);
const hostFolder = path.dirname(node.hostFile);

/** A name for the inspector of the cell with this number; `map` turns its positions into the user's. */
function nameCell(count, map) {
  serial += 1;
  if (map) {
    maps.set(serial, map);
    if (maps.size > MAPS_KEPT) maps.delete(maps.keys().next().value);
  }
  return `kernelagent:cell/${serial}/${count}`;
}

/** Replace the inner names and positions of cells in `text` by the user's. */
function readable(text) {
  return text.replace(CELL, (_, number, count, line, column) => {
    if (line === undefined) return `Cell In[${count}]`;
    const map = maps.get(Number(number));
    const [row, offset] = map ? map(Number(line), Number(column)) : [line, column];
    return `Cell In[${count}]:${row}:${offset}`;
  });
}

function ofHost(frame) {
  return (
    frame.includes(hostFolder) ||
    frame.includes('node:internal/') ||
    frame.includes('node:inspector') ||
    frame.includes('node:vm:') ||
    frame.includes('kernelagent:region') ||
    frame.includes('kernelagent:take')
  );
}

/** The frames that matter to the user: above the host, and none within Node. */
function userFrames(frames) {
  const last = frames.findLastIndex((frame) => frame.includes('kernelagent:cell/'));
  const own = last >= 0 ? frames.slice(0, last + 1) : frames;
  return own.filter((frame) => !ofHost(frame));
}

function heading(error) {
  try {
    return errorToString(error);
  } catch {
    return '<error>';
  }
}

function prepareStackTrace(error, sites) {
  const frames = userFrames(Array.from(sites, (site) => String(site)));
  return readable([heading(error), ...frames.map((frame) => `    at ${frame}`)].join('\n'));
}

/** As `prepareStackTrace`, for a stack that was made by other means. */
function clean(text) {
  const lines = text.split('\n');
  const kept = lines.filter((line) => !/^\s+at /.test(line) || !ofHost(line));
  return readable(kept.join('\n'));
}

function install() {
  global.Error.prepareStackTrace = prepareStackTrace;
}

module.exports = { clean, install, nameCell, readable };
