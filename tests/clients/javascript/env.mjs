// Drives the published client through its calls for variables and commands; prints JSON.
import { Sandbox } from '@hopx-ai/sdk';

const [controlPlane, workdir] = process.argv.slice(2);
const sandbox = await Sandbox.create({ template: 'code-interpreter', apiKey: 'any', baseURL: controlPlane });

const got = {};
await sandbox.env.setAll({ A: '1' });
await sandbox.env.update({ B: '2' });
await sandbox.env.set('C', '3');
got.all = await sandbox.env.getAll();
await sandbox.env.delete('B');
got.rest = await sandbox.env.getAll();
got.command = await sandbox.commands.run('echo $C; exit 4', { workingDir: workdir });
console.log(JSON.stringify(got));
process.exit(0);
