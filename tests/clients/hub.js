// Starts, kills and asks a hub of its own for one test. NAVE names the program.
'use strict';
const assert = require('node:assert');
const { spawn, execFile, execFileSync } = require('node:child_process');
const { once } = require('node:events');
const fs = require('node:fs');
const http = require('node:http');
const os = require('node:os');
const path = require('node:path');

const program = process.env.NAVE;
if (!program) {
  throw new Error('NAVE must name the program to test');
}

class Hub {
  constructor() {
    this.children = []; // of again()
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'nave-test-'));
    this.log = path.join(this.dir, 'hub.log');
    this.data = path.join(this.dir, 'data');
    this.options = []; // further ones of `nave up`
  }

  // What it has logged so far.
  text() {
    return fs.readFileSync(this.log, 'utf8');
  }

  async start() {
    const out = fs.openSync(this.log, 'a');
    this.process = spawn(program, ['up', '--data', this.data, ...this.options], { stdio: ['ignore', out, out] });
    fs.closeSync(out);
    this.exited = new Promise((resolve) => this.process.once('exit', resolve));
    const gone = this.exited.then((code) => {
      throw new Error(`the hub exited with ${code}\n${this.text()}`);
    });
    gone.catch(() => {}); // it may also exit later, when it should
    await Promise.race([this.ready(), gone]);
  }

  // Polls /readyz; the hub has no other way to tell an outsider.
  async ready() {
    const deadline = Date.now() + 90000;
    while (Date.now() < deadline) {
      const status = await new Promise((resolve) => {
        http.get('http://127.0.0.1:9600/readyz', (res) => {
          res.resume();
          resolve(res.statusCode);
        }).on('error', () => resolve(0));
      });
      if (status === 200) {
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    throw new Error('the hub did not become ready\n' + this.text());
  }

  async kill(signal = 'SIGKILL') {
    this.process.kill(signal);
    await this.exited;
  }

  // Run `nave ...` and give its JSON, one value per line for monitor.
  cli(...args) {
    return execFileSync(program, [...args, '--data', this.data], { encoding: 'utf8', timeout: 90000, killSignal: 'SIGKILL' });
  }

  // The same without holding up this process, whose own devices may have to answer meanwhile.
  ask(...args) {
    return new Promise((resolve, reject) => {
      execFile(program, [...args, '--data', this.data], { encoding: 'utf8', timeout: 90000 }, (err, stdout, stderr) => {
        if (err) {
          reject(new Error(`nave ${args.join(' ')}: ${stderr}`));
        } else {
          resolve(stdout);
        }
      });
    });
  }

  json(...args) {
    return JSON.parse(this.cli(...args, '-o', 'json'));
  }

  // The first `count` events since the beginning; fails when there are not as many after a while.
  events(count) {
    const text = this.cli('monitor', '--from', 'beginning', '--count', String(count), '-o', 'json');
    return text.trim().split('\n').map((line) => JSON.parse(line));
  }

  // Everything stored now, through the public API, without following.
  allEvents() {
    const token = this.cli('sas', '--policy', 'service').trim();
    const text = execFileSync('curl', ['-sS', '--fail', '--cacert', this.json('hub', 'show').caFile, '-H',
      `Authorization: ${token}`, 'https://localhost/nave/v1/events?from=beginning&follow=false'],
    { encoding: 'utf8', timeout: 90000, maxBuffer: 1 << 28 });
    return text.split('\n').filter((line) => line).map((line) => JSON.parse(line));
  }

  get ca() {
    return fs.readFileSync(this.json('hub', 'show').caFile, 'utf8');
  }

  // Run this script once more beside the hub and wait for its end. The service SDK takes its roots from NODE_EXTRA_CA_CERTS
  // only, which Node reads at its start.
  // What it sends by process.send(name) is done by `requests[name]` and answered by a message.
  async again(script, requests = {}) {
    const shown = this.json('hub', 'show');
    const env = { ...process.env, NODE_EXTRA_CA_CERTS: shown.caFile, NAVE_HUB: JSON.stringify(shown) };
    const child = spawn(process.execPath, [script], { env, stdio: ['inherit', 'inherit', 'inherit', 'ipc'] });
    this.children.push(child);
    child.on('message', async (name) => child.send(await requests[name]() || 'done'));
    const code = await new Promise((resolve) => child.once('exit', resolve));
    assert.strictEqual(code, 0, `the script ended with ${code}`);
  }

  async stop() {
    this.children.forEach((child) => child.kill('SIGKILL')); // one that hangs would outlive the test
    if (this.process && this.process.exitCode === null && this.process.signalCode === null) {
      await this.kill('SIGTERM');
    }
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
}

// Run one test with a started hub; on failure show the hub's log. Ends the process: SDKs leave timers behind.
function withHub(test, { timeoutS = 200 } = {}) {
  const hub = new Hub();
  const watchdog = setTimeout(() => finish(new Error(`no result after ${timeoutS} s`)), timeoutS * 1000);
  let finished = false;
  async function finish(err) {
    if (finished) {
      return;
    }
    finished = true;
    clearTimeout(watchdog);
    if (err) {
      console.error(err);
      try {
        console.error('--- the log of the hub\n' + hub.text().slice(-8000));
      } catch (_) {
        // it never started
      }
    }
    await hub.stop();
    process.exit(err ? 1 : 0);
  }
  process.on('unhandledRejection', finish);
  process.on('uncaughtException', finish);
  (async () => {
    await hub.start();
    await test(hub);
  })().then(() => finish(), finish);
}

// A test whose SDKs know their roots through the environment alone: `test` runs in a process of its own, given `nave hub show`.
// `prepare` is for the hub before it; it gives what ask() can ask for.
function withHubAgain(script, test, prepare = () => ({})) {
  if (process.env.NAVE_HUB) {
    test(JSON.parse(process.env.NAVE_HUB)).then(() => process.exit(0));
  } else {
    withHub(async (hub) => hub.again(script, await prepare(hub)));
  }
}

// From within such a test: let the one with the hub do something.
async function ask(name) {
  process.send(name);
  return (await once(process, 'message'))[0];
}

module.exports = { withHub, withHubAgain, ask };
