// Drives the published client through its calls for jobs; prints what it got as JSON.
import { Sandbox } from '@hopx-ai/sdk';

const [controlPlane, workdir, callback] = process.argv.slice(2);
const sandbox = await Sandbox.create({ template: 'code-interpreter', apiKey: 'any', baseURL: controlPlane });

async function ended(id) {
  for (;;) {
    const item = (await sandbox.listProcesses()).find((process) => process.process_id === id);
    if (item && !['queued', 'running'].includes(item.status)) return item;
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
}

const got = {};
const code = await sandbox.runCodeBackground('print(6 * 7)', { language: 'python', workingDir: workdir, name: 'mine' });
got.code = await ended(code.process_id);
const sleeper = await sandbox.runCodeBackground('import time; time.sleep(60)', { workingDir: workdir });
await sandbox.killProcess(sleeper.process_id);
got.sleeper = await ended(sleeper.process_id);
got.started = await sandbox.commands.runBackground('echo out; exit 4', { workingDir: workdir });
got.command = await ended(got.started.process_id);
got.async = await sandbox.runCodeAsync('print("async")', {
  callbackUrl: callback,
  callbackHeaders: { 'X-Mine': '1' },
  callbackSignatureSecret: 's3cret',
  workingDir: workdir,
});
got.system = (await sandbox.listSystemProcesses()).filter((item) => item.process_id === code.process_id);
console.log(JSON.stringify(got));
process.exit(0);
