// Runs the real program on free ports, in a data directory of its own.

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

// How long to wait for a process. Only a failure waits this long.
const PATIENCE_MS = 60_000;

const PROGRAM = process.env.WARDKEY_BIN ?? '';

/** A host that serves the simulated API, until `stop`. */
export class Host {
  static async start() {
    if (!existsSync(PROGRAM)) {
      throw new Error('WARDKEY_BIN must name the program, as `cargo build` makes it');
    }
    const host = new Host();
    host.folder = mkdtempSync(join(tmpdir(), 'wardkey-'));
    host.environment = Object.fromEntries(
      Object.entries(process.env).filter(([name]) => !name.startsWith('WARDKEY_')),
    );
    const anyPort = ['--listen', '--admin-listen', '--internal-listen'];
    host.process = spawn(
      PROGRAM,
      // Where nobody sits that could confirm, nobody is asked.
      [...anyPort.flatMap((flag) => [flag, '127.0.0.1:0']), '--verification', 'none'],
      { cwd: host.folder, env: host.environment, stdio: ['ignore', 'pipe', 'inherit'] },
    );
    const deadline = setTimeout(() => host.process.kill('SIGKILL'), PATIENCE_MS);
    for await (const line of createInterface({ input: host.process.stdout })) {
      const [name, url] = line.trim().split(/ +/);
      if (name === 'gate') host.gate = new URL(url);
      if (name === 'admin') host.admin = new URL(url);
      // The last of the lines that are always there.
      if (name === 'operator') break;
    }
    clearTimeout(deadline);
    if (!host.gate || !host.admin) throw new Error('the host did not start');
    host.account = host.command('keys', 'list')[0].account;
    return host;
  }

  /** Stops the host, and checks that it ends well. */
  async stop() {
    const ended = once(this.process, 'exit');
    this.process.kill('SIGTERM');
    const deadline = setTimeout(() => this.process.kill('SIGKILL'), PATIENCE_MS);
    const [code] = await ended;
    clearTimeout(deadline);
    rmSync(this.folder, { recursive: true });
    if (code !== 0) throw new Error(`the host ended with ${code}`);
  }

  /** Runs a command, and returns the JSON that it prints. */
  command(...args) {
    const options = { cwd: this.folder, env: this.environment, timeout: PATIENCE_MS };
    return JSON.parse(execFileSync(PROGRAM, [...args, '--json'], options));
  }

  /** Makes a key, as a rule of the first account, and returns its secret. */
  key(...args) {
    if (!args.includes('--account')) args.push('--account', this.account);
    const made = this.command('keys', 'create', '--name', 'a key', ...args);
    return (made.secret_key ?? made.publishable_key).token;
  }

  /** Asks the admin API as the operator. */
  async askAdmin(path, body) {
    const file = join(this.folder, 'wardkey-data', 'operator.secret');
    const operator = readFileSync(file, 'utf8').trim();
    const response = await fetch(new URL(path, this.admin), {
      method: 'POST',
      headers: { Authorization: `Bearer ${operator}`, 'Content-Type': 'application/json' },
      body: JSON.stringify(body),
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(JSON.stringify(answer));
    return answer;
  }
}
