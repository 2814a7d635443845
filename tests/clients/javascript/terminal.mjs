// Drives the published client through its calls for terminals; prints JSON.
import { Sandbox } from '@hopx-ai/sdk';

const [controlPlane] = process.argv.slice(2);
const sandbox = await Sandbox.create({ template: 'code-interpreter', apiKey: 'any', baseURL: controlPlane });

const ws = await sandbox.terminal.connect();
sandbox.terminal.resize(ws, 120, 40);
sandbox.terminal.sendInput(ws, 'stty size\n');
sandbox.terminal.sendInput(ws, 'for n in $(seq 2000); do echo "<$n>"; done\n');
sandbox.terminal.sendInput(ws, "echo 'é€😀'; exit 6\n");
const got = { text: '', kinds: [] };
for await (const message of sandbox.terminal.output(ws)) {
  if (!got.kinds.includes(message.type)) got.kinds.push(message.type);
  if (message.type === 'output') got.text += message.data;
  if (message.type === 'exit') got.code = message.code;
}
console.log(JSON.stringify(got));
process.exit(0);
