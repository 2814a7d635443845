// Drives the published client through its call that watches files; prints what it was told.
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { Sandbox } from '@hopx-ai/sdk';

const [controlPlane, directory, outside] = process.argv.slice(2);
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

// What is done, once the test says that the watch is on.
process.stdin.once('data', () => {
  for (let number = 0; number < 20; number += 1) writeFileSync(`${directory}/${number}`, 'x');
});
const got = {};
got.many = await watch(directory, (_, seen) => seen.length === 20);
setTimeout(() => {
  renameSync(`${directory}/1`, `${directory}/one`);
  rmSync(`${directory}/2`);
}, 1000);
got.two = await watch(directory, (event) => event.event === 'deleted');
got.refused = await watch(outside, () => false);
console.log(JSON.stringify(got));
process.exit(0);
