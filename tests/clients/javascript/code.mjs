// Drives the published client through its calls for code, sessions and the cache; prints JSON.
import { Sandbox } from '@hopx-ai/sdk';

const [controlPlane, workingDir] = process.argv.slice(2);
const sandbox = await Sandbox.create({ template: 'code-interpreter', apiKey: 'any', baseURL: controlPlane });

const got = { streamed: [] };
got.code = await sandbox.runCode('print(6 * 7)', { workingDir });
got.failed = await sandbox.runCode('1/0', { workingDir });
got.javascript = await sandbox.runCode('console.log([1, 2].map((n) => n * 2))', { language: 'javascript', workingDir });
got.ipython = await sandbox.runIpython('21 * 2', { workingDir });
const lines = 'for n in range(1000): print(n, flush=n % 100 == 0)';
for await (const message of sandbox.runCodeStream(lines, { workingDir })) {
  got.streamed.push(message);
  if (message.type === 'complete') break;
}
got.sessions = await sandbox.getJupyterSessions();
await sandbox.env.set('FROM_JS', 'yes');
got.variable = await sandbox.env.get('FROM_JS');
got.missing = (await sandbox.env.get('NOT_THERE')) ?? 'none';
await sandbox.env.delete('FROM_JS');
got.stats = await sandbox.cache.stats();
got.cleared = await sandbox.cache.clear();
console.log(JSON.stringify(got));
process.exit(0);
