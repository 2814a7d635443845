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

// What is done, once the test says that the watch is on. The client loses what it has no time for.
process.stdin.once('data', () => {
  for (let number = 0; number < 20; number += 1) writeFileSync(`${directory}/${number}`, 'x');
  setTimeout(() => writeFileSync(`${directory}/last`, 'x'), 1000);
});
const got = {};
got.many = await watch(directory, (event) => event.path.endsWith('/last'));
setTimeout(() => renameSync(`${directory}/1`, `${directory}/one`), 1000);
setTimeout(() => rmSync(`${directory}/2`), 2000);
got.two = await watch(directory, (event) => event.event === 'deleted');
console.log(JSON.stringify(got));
process.exit(0);
