// Environment and directory: for good, or for one run and undone exactly afterwards.
'use strict';

const { env, process, fs } = node;

let undo = [];

class ScopeError {
  constructor(message) {
    this.message = message;
  }
}

function enterDirectory(directory) {
  try {
    node.chdir(directory);
  } catch (error) {
    const reason = node.util.getSystemErrorMap().get(error.errno)?.[1] ?? String(error.code);
    throw new ScopeError(`${directory}: ${reason[0].toUpperCase()}${reason.slice(1)}`);
  }
}

function currentDirectory() {
  try {
    return node.cwd();
  } catch {
    return null;
  }
}

// User code may have put an object of its own in the place of process.env.
function environments() {
  const current = process.env;
  return current !== env && current !== null && typeof current === 'object' ? [env, current] : [env];
}

function enter(changes, cwd) {
  leave();
  if (cwd !== null) {
    const before = currentDirectory();
    enterDirectory(cwd);
    undo.push(() => {
      // If it was removed meanwhile, there is nowhere to go back to.
      if (before !== null && fs.existsSync(before)) node.chdir(before);
    });
  }
  for (const target of environments()) {
    for (const [name, value] of Object.entries(changes)) {
      const before = Object.hasOwn(target, name) ? target[name] : undefined;
      undo.push(() => {
        if (before === undefined) delete target[name];
        else target[name] = before;
      });
      target[name] = value;
    }
  }
}

function leave() {
  const steps = undo;
  undo = [];
  for (const step of steps.reverse()) step();
}

function configure(changes, unset, cwd) {
  if (cwd !== null) enterDirectory(cwd);
  for (const target of environments()) {
    for (const [name, value] of Object.entries(changes)) target[name] = value;
    for (const name of unset) delete target[name];
  }
}

module.exports = { ScopeError, configure, enter, leave };
