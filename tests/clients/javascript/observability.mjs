// Drives the published client through what it asks about the agent; prints JSON.
import { Sandbox } from '@hopx-ai/sdk';

const [controlPlane, server] = process.argv.slice(2);
const sandbox = await Sandbox.create({ template: 'code-interpreter', apiKey: 'any', baseURL: controlPlane });

await sandbox.ensureHealthy();
console.log(JSON.stringify({
  healthy: await sandbox.isHealthy(),
  health: await sandbox.getHealth(),
  check: await Sandbox.healthCheck(server),
  info: await sandbox.getAgentInfo(),
  metrics: await sandbox.getAgentMetrics(),
  snapshot: await sandbox.getMetricsSnapshot(),
  system: await sandbox.listSystemProcesses(),
  processes: await sandbox.listProcesses(),
}));
process.exit(0);
