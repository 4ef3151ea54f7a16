// 1,000 devices on one connection, as gateways and the pooling SDKs do it: a token for each on $cbs, links for telemetry and
// for messages from the cloud; a token that expires, one that is wrong and a link that is not covered touch nobody else.
/* conformance: amqp.md 4, 9, 12, 15, 18, 20, 21, 22, 24, 25, 26, 54, 55 */
'use strict';
const assert = require('node:assert');
const { createHmac, randomUUID } = require('node:crypto');
const { once } = require('node:events');
const fs = require('node:fs');
const rhea = require('rhea');
const { Client: Service, Registry } = require('azure-iothub');
const { withHubAgain } = require('./hub');

const COUNT = 1000;
const IN_ONE_SESSION = 500; // the other half has a session for each device
const KEY = Buffer.alloc(32, 'k').toString('base64');
const WAIT_MS = 120000;

function token(host, device, seconds, key = KEY) {
  const resource = encodeURIComponent(`${host}/devices/${device}`);
  const expiry = Math.floor(Date.now() / 1000) + seconds;
  const mac = createHmac('sha256', Buffer.from(key, 'base64')).update(`${resource}\n${expiry}`).digest('base64');
  return `SharedAccessSignature sr=${resource}&sig=${encodeURIComponent(mac)}&se=${expiry}`;
}

function event(emitter, name, what) {
  return once(emitter, name, { signal: AbortSignal.timeout(WAIT_MS) }).then(([context]) => context, () => {
    throw new Error(`${what || name}: nothing after ${WAIT_MS / 1000} s`);
  });
}

// The first of several events of a link.
function outcome(link, ...names) {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`${names}: nothing after ${WAIT_MS / 1000} s`)), WAIT_MS);
    const done = (name) => (context) => {
      clearTimeout(late);
      names.forEach((other) => link.removeListener(other, listeners[other]));
      resolve({ name, context });
    };
    const listeners = Object.fromEntries(names.map((name) => [name, done(name)]));
    names.forEach((name) => link.once(name, listeners[name]));
  });
}

class Gateway {
  async open(shown) {
    this.host = shown.hostName;
    this.container = rhea.create_container();
    this.container.on('error', () => {}); // each link's own listener tells
    this.connection = this.container.connect({ host: 'localhost', hostname: this.host, port: 5671, transport: 'tls',
      servername: 'localhost', ca: fs.readFileSync(shown.caFile), reconnect: false });
    await event(this.connection, 'connection_open');
    this.connection.on('connection_close', () => { this.closed = true; });
    this.connection.on('disconnected', () => { this.closed = true; });
    this.shared = this.session();
    this.requests = new Map();
    this.cbsSender = this.shared.open_sender({ target: { address: '$cbs' } });
    this.cbsReceiver = this.shared.open_receiver({ source: { address: '$cbs' } });
    this.cbsReceiver.on('message', ({ message }) => {
      this.requests.get(message.correlation_id)(message.application_properties['status-code']);
      this.requests.delete(message.correlation_id);
    });
    await event(this.cbsSender, 'sendable');
  }

  session() {
    const session = this.connection.create_session();
    session.begin();
    return session;
  }

  // As many at once as there is credit for.
  async put(device, text, type = 'servicebus.windows.net:sastoken') {
    while (!this.cbsSender.sendable()) {
      await event(this.cbsSender, 'sendable');
    }
    const id = randomUUID();
    const status = new Promise((resolve) => this.requests.set(id, resolve));
    this.cbsSender.send({ message_id: id, body: text,
      application_properties: { operation: 'put-token', type, name: `${this.host}/devices/${device}` } });
    return status;
  }
}

class Device {
  constructor(gateway, id, session) {
    Object.assign(this, { gateway, id, session, messages: [] });
  }

  async attach(path = this.id) {
    this.sender = this.session.open_sender({ name: `events-${this.id}`, target: { address: `/devices/${path}/messages/events` } });
    const opened = await outcome(this.sender, 'sendable', 'sender_error');
    if (opened.name === 'sender_error') {
      this.sender.remove();
      throw this.sender.error;
    }
    this.receiver = this.session.open_receiver({ name: `bound-${this.id}`, autoaccept: true, credit_window: 10,
      source: { address: `/devices/${path}/messages/devicebound` } });
    this.receiver.on('message', ({ message }) => {
      this.messages.push(message.body.content.toString());
      this.receiver.emit('taken');
    });
    const bound = await outcome(this.receiver, 'receiver_open', 'receiver_error');
    assert.strictEqual(bound.name, 'receiver_open');
  }

  async send(text) {
    const settled = outcome(this.sender, 'accepted', 'rejected', 'released', 'sender_error');
    this.sender.send({ body: rhea.message.data_section(Buffer.from(text)) });
    const { name } = await settled;
    assert.strictEqual(name, 'accepted', this.id);
  }

  async saw(text) {
    while (!this.messages.includes(text)) {
      await event(this.receiver, 'taken', `${this.id}: ${text}`);
    }
  }
}

async function detached(device, condition) {
  const { context } = await outcome(device.sender, 'sender_error');
  assert.strictEqual(context.sender.error.condition, condition);
  return context.sender.error;
}

// One cannot do what another can, and the connection goes on.
async function refusals(gateway, devices) {
  assert.strictEqual(await gateway.put('d0001', token(gateway.host, 'd0001', 60, Buffer.alloc(32, 'w').toString('base64'))), 401);
  assert.strictEqual(await gateway.put('d0001', token(gateway.host, 'd0001', -60)), 401);
  assert.strictEqual(await gateway.put('d0001', 'not a token'), 400);
  assert.strictEqual(await gateway.put('d0001', token(gateway.host, 'd0002', 60)), 401, 'a token for something else');
  for (const [path, condition] of [['stranger', 'amqp:unauthorized-access'], ['d0001/nowhere', /amqp:(not-found|not-allowed)/]]) {
    const intruder = new Device(gateway, `intruder-${path}`, gateway.session());
    await assert.rejects(intruder.attach(path), { condition });
  }
  await devices[1].send('untouched');
  assert.strictEqual(await gateway.put('d0001', token(gateway.host, 'd0001', 60), 'AZURE-DEVICES.NET:SASTOKEN'), 200);
  // The name of a link that is gone may be used again.
  devices[2].sender.close();
  devices[2].receiver.close();
  await Promise.all([event(devices[2].sender, 'sender_close'), event(devices[2].receiver, 'receiver_close')]);
  await devices[2].attach();
  await devices[2].send('attached again');
}

// d0 lets its token expire, d1 puts another one in time.
async function expiry(gateway, devices) {
  const [short, renewed, other] = [devices[3], devices[4], devices.at(-1)];
  const seconds = 15;
  const begun = Math.floor(Date.now() / 1000) * 1000;
  const shortLived = token(gateway.host, short.id, seconds);
  assert.strictEqual(await gateway.put(short.id, shortLived), 200);
  assert.strictEqual(await gateway.put(renewed.id, token(gateway.host, renewed.id, seconds)), 200);
  const gone = detached(short, 'amqp:unauthorized-access');
  const bound = outcome(short.receiver, 'receiver_error');
  assert.strictEqual(await gateway.put(renewed.id, token(gateway.host, renewed.id, 600)), 200);
  const error = await gone;
  const after = (Date.now() - begun) / 1000;
  assert.ok(after > seconds - 0.1, `detached after ${after} s`);
  assert.ok(error.description, 'a sentence');
  await bound;
  for (const device of [renewed, other]) {
    await device.send('goes on');
  }
  // A fresh token, the same device, the same connection.
  assert.strictEqual(await gateway.put(short.id, token(gateway.host, short.id, 600)), 200);
  await short.attach();
  await short.send('back');
}

async function test(shown) {
  const registry = Registry.fromConnectionString(shown.serviceConnectionString);
  const ids = Array.from({ length: COUNT }, (_, i) => `d${String(i).padStart(4, '0')}`);
  for (let at = 0; at < COUNT; at += 100) {
    await registry.addDevices(ids.slice(at, at + 100).map((deviceId) => (
      { deviceId, authentication: { symmetricKey: { primaryKey: KEY, secondaryKey: KEY } } })));
  }
  const gateway = new Gateway();
  await gateway.open(shown);
  const early = new Device(gateway, 'd0000', gateway.session());
  await assert.rejects(early.attach(), { condition: 'amqp:unauthorized-access' }); // before its token
  const devices = ids.map((id, i) => new Device(gateway, id, i < IN_ONE_SESSION ? gateway.shared : gateway.session()));
  const statuses = await Promise.all(devices.map((device) => gateway.put(device.id, token(gateway.host, device.id, 600))));
  assert.ok(statuses.every((status) => status === 200), `${statuses.filter((s) => s !== 200)}`);
  await Promise.all(devices.map((device) => device.attach()));
  for (const round of [0, 1, 2]) {
    await Promise.all(devices.map((device) => device.send(`${device.id} ${round}`)));
  }
  const service = Service.fromConnectionString(shown.serviceConnectionString);
  await service.open();
  await Promise.all(ids.map((id) => service.send(id, `to ${id}`)));
  await Promise.all(devices.map((device) => device.saw(`to ${device.id}`)));
  assert.ok(devices.every((device) => device.messages.length === 1));
  await refusals(gateway, devices);
  await expiry(gateway, devices);
  await Promise.all(devices.map((device) => device.send(`${device.id} last`)));
  assert.ok(!gateway.closed);
  gateway.connection.close();
  await service.close();
}

withHubAgain(__filename, test, async (hub) => {
  const finished = hub.again; // what was stored is compared where the hub is
  hub.again = async (...args) => {
    await finished.apply(hub, args);
    const stored = new Map();
    for (const event of hub.allEvents()) {
      stored.set(event.deviceId, [...(stored.get(event.deviceId) || []), event.body]);
    }
    assert.strictEqual(stored.size, COUNT);
    for (const [id, bodies] of stored) {
      assert.deepStrictEqual(bodies.filter((b) => b.startsWith(id)), [0, 1, 2, 'last'].map((n) => `${id} ${n}`));
    }
  };
  return {};
});
