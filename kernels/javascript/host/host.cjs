// The host: answers the driver's requests, one run at a time.
'use strict';

const channel = require('channel');
const children = require('children');
const display = require('display');
const failures = require('failures');
const input = require('input');
const inspector = require('inspector');
const modules = require('modules');
const region = require('region');
const requests = require('requests');
const run = require('run');
const scope = require('scope');
const streams = require('streams');
const traces = require('traces');

const { process } = node;

const names = () => require('names');
const source = require('source');

const reply = (id, content) => channel.send({ __proto__: null, op: 'reply', id, ...content });

function handle(request, typescript) {
  const { id } = request;
  switch (request.op) {
    case 'run':
      run.begin(request);
      break;
    case 'interrupt':
      run.interrupt(id);
      break;
    case 'input':
      input.answer(request.line);
      break;
    case 'settled':
      // Code that was cut short waited for it.
      break;
    case 'configure':
      configure(request);
      break;
    case 'complete':
      reply(id, names().complete(request.code, request.cursor));
      break;
    case 'inspect':
      reply(id, { data: names().inspectAt(request.code, request.cursor) });
      break;
    case 'is_complete':
      reply(id, { status: source.completeness(request.code, typescript) });
      break;
    case 'variables':
      reply(id, names().variables(request.limit));
      break;
    default:
      throw new Error(`unknown operation ${request.op}`);
  }
}

function configure({ id, env, unset, cwd }) {
  try {
    scope.configure(env, unset, cwd);
    reply(id, {});
  } catch (error) {
    if (!(error instanceof scope.ScopeError)) throw error;
    reply(id, { scope_error: error.message });
  }
}

/** What happens outside of any cell's promise is told on stderr, and the host goes on. */
function report(event, heading) {
  const listener = (error) => {
    // Others may have taken it over.
    if (run.isExit(error) || region.isUnwinding(error) || process.listeners(event).some((other) => other !== listener)) return;
    const { traceback } = failures.describe(error);
    const text = traceback.join('\n').replace(/^Uncaught /, '');
    channel.stream('stderr', `${heading} ${text}\n`);
  };
  process.on(event, listener);
}

function start({ requests: from, messages: to, typescript }) {
  channel.open(from, to);
  inspector.start();
  traces.install();
  streams.install();
  children.install();
  modules.install();
  display.install();
  requests.install((request) => handle(request, typescript));
  input.install();
  run.install({ typescript });
  names().remember();
  region.start();
  report('uncaughtException', 'Uncaught');
  report('unhandledRejection', 'Unhandled rejection:');
  channel.listen((request) => handle(request, typescript));
  channel.send({ __proto__: null, op: 'ready' });
}

module.exports = { start };
