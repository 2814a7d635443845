// A terminal as a browser shows it: xterm.js without the page. Takes steps as JSON lines on stdin
// (`{"type": "input" | "resize", ...}` is sent as it is, `{"until": text}` waits for it to be on
// the screen, `{"show": true}` prints the screen as JSON) and ends with the last of them.
import { createInterface } from 'node:readline';
import headless from '@xterm/headless';
import WebSocket from 'ws';

const [url, token, cols, rows] = process.argv.slice(2);
const terminal = new headless.Terminal({
  cols: Number(cols), rows: Number(rows), scrollback: 0, allowProposedApi: true,
});
const socket = new WebSocket(url, { headers: { Authorization: `Bearer ${token}` } });
// What the terminal answers to questions of the program (its kind, the cursor's place).
terminal.onData((data) => socket.send(JSON.stringify({ type: 'input', data })));

const lines = () => Array.from({ length: terminal.rows }, (_, row) =>
  terminal.buffer.active.getLine(terminal.buffer.active.viewportY + row).translateToString(true));

let changed = () => {};
socket.on('message', (data, binary) => {
  const message = binary ? { type: 'output', data: new Uint8Array(data) } : JSON.parse(data);
  if (message.type === 'output') terminal.write(message.data, () => changed());
});

async function until(text) {
  while (!lines().join('\n').includes(text)) {
    await new Promise((resolve) => { changed = resolve; });
  }
}

function look() {
  const { cursorX, cursorY, type } = terminal.buffer.active;
  const colours = new Set();
  for (let row = 0; row < terminal.rows; row++) {
    for (let column = 0; column < terminal.cols; column++) {
      const cell = terminal.buffer.active.getLine(terminal.buffer.active.viewportY + row).getCell(column);
      if (!cell.isFgDefault()) colours.add(cell.getFgColor());
    }
  }
  return { lines: lines(), cursor: [cursorX, cursorY], buffer: type, colours: colours.size };
}

await new Promise((resolve, reject) => { socket.on('open', resolve); socket.on('error', reject); });
for await (const line of createInterface({ input: process.stdin })) {
  const step = JSON.parse(line);
  if (step.until !== undefined) await until(step.until);
  else if (step.show) console.log(JSON.stringify(look()));
  else {
    if (step.type === 'resize') terminal.resize(step.cols, step.rows);
    socket.send(JSON.stringify(step));
  }
}
socket.close();
