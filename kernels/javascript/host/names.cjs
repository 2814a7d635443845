'use strict';
module.exports = { remember() {}, complete() { return { matches: [], start: 0, end: 0 } }, inspectAt() { return null }, variables() { return { variables: [], total: 0, truncated: false } } };
