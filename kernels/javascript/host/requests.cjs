// The driver's requests while the code waits for one of them, in the middle of a run.
'use strict';

const channel = require('channel');
const region = require('region');

let later = () => {};
let settles = 0;

/** The request that `wanted` accepts, waiting for it; null once the run that waits is `over`. */
function waitFor(wanted, over = () => false) {
  for (;;) {
    const request = channel.readRequest();
    if (request === null) node.reallyExit(0);
    if (wanted(request)) {
      node.setImmediate(channel.takeLines);
      return request;
    }
    // SIGINT may come at any time now: what ends the run must not be cut short, too.
    if (request.op === 'interrupt' && region.guarded()) region.cut();
    later(request);
    if (over()) return null;
  }
}

/**
 * Wait until the driver has taken all messages, and then all that children have written. With
 * `others`, the children that run already, a child follows that the code waits for.
 */
function settle(others = null) {
  settles += 1;
  const number = settles;
  channel.send({ __proto__: null, op: 'settle', number, others });
  waitFor((request) => request.op === 'settled' && request.number === number);
}

/** `onRequest` gets the requests that nobody waits for. */
function install(onRequest) {
  later = onRequest;
}

module.exports = { install, settle, waitFor };
