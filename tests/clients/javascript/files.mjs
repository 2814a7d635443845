// Drives the published client through its calls for files; prints JSON.
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Sandbox } from '@hopx-ai/sdk';

const [controlPlane, workspace] = process.argv.slice(2);
const sandbox = await Sandbox.create({ template: 'code-interpreter', apiKey: 'any', baseURL: controlPlane });
const files = sandbox.files;
const at = (name) => `${workspace}/${name}`;
const error = async (call) => {
  try {
    await call();
    return null;
  } catch (failure) {
    return { name: failure.constructor.name, code: failure.code, message: failure.message };
  }
};

const got = {};
const text = 'line "one"\nzwei é € 😀 & # + %25';
await files.write(at('a/text &#+%.txt'), text);
got.text = (await files.read(at('a/text &#+%.txt'))) === text;
const bytes = Buffer.from([0, 1, 2, 253, 254, 255]);
await files.writeBytes(at('bytes'), bytes);
got.bytes = Buffer.from(await files.readBytes(at('bytes'))).equals(bytes);
await files.mkdir(at('dir/deep'));
got.list = (await files.list(workspace)).map((item) => [item.name, item.is_dir, item.size, item.modified !== undefined]);
got.exists = [await files.exists(at('bytes')), await files.exists(at('missing'))];

const local = mkdtempSync(join(tmpdir(), 'files-'));
writeFileSync(join(local, 'local.bin'), bytes);
await files.upload(join(local, 'local.bin'), at('uploaded'));
got.upload = Buffer.from(await files.download(at('uploaded'))).equals(bytes);
await files.remove(at('dir'));
got.removed = await files.exists(at('dir'));
got.missing = await error(() => files.read(at('missing')));
got.denied = await error(() => files.read('/etc/shadow'));
got.list_missing = await error(() => files.list(at('missing')));
console.log(JSON.stringify(got));
process.exit(0);
