// Drives the published client through its call that watches files; prints what it was told.
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { Sandbox } from '@hopx-ai/sdk';

const [controlPlane, directory] = process.argv.slice(2);
const sandbox = await Sandbox.create({ template: 'code-interpreter', apiKey: 'any', baseURL: controlPlane });

async function watch(path, enough) {
  const seen = [];
  console.log('watching');
  for await (const event of sandbox.watchFiles(path)) {
    seen.push(event);
    if (enough(event, seen)) break;
  }
  return seen;
}

// Resolves when the test has written a line.
const told = () => new Promise((resolve) => process.stdin.once('data', resolve));

const got = {};
// What is done, once the test says that the watch is on. The client loses what it has no time for,
// the last one too.
let timer;
told().then(() => {
  for (let number = 0; number < 20; number += 1) writeFileSync(`${directory}/${number}`, 'x');
  let last = 0;
  timer = setInterval(() => writeFileSync(`${directory}/last ${last++}`, 'x'), 300);
});
got.many = await watch(directory, (event) => event.path.includes('/last'));
clearInterval(timer);

told().then(() => renameSync(`${directory}/1`, `${directory}/one`));
got.two = await watch(directory, (event) => {
  if (event.event === 'renamed') setImmediate(() => rmSync(`${directory}/2`));
  return event.event === 'deleted';
});
console.log(JSON.stringify(got));
process.exit(0);
