// azure-iot-device over AMQP, and over AMQP in WebSocket: telemetry, messages settled in each way, twins, methods,
// modules; with keys and with certificates.
/* conformance: amqp.md 1, 2, 3, 4, 12, 13, 16, 19, 23, 25, 26, 27, 30, 31, 34, 35, 36, 37, 38, 59 */
'use strict';
const assert = require('node:assert');
const { once } = require('node:events');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { X509Certificate } = require('node:crypto');
const { Client, ModuleClient, Message } = require('azure-iot-device');
const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
const { NoRetry } = require('azure-iot-common');
const { withHub } = require('./hub');

const UUID = '5fdd4f48-9e7c-4d1a-8f43-2a0a4fb1c0de';

async function connect(hub, text, transport, options = {}) {
  const make = /ModuleId=/i.test(text) ? ModuleClient : Client;
  const client = make.fromConnectionString(text, transport);
  await client.setOptions({ ca: hub.ca, ...options });
  await client.open();
  return client;
}

// Node's own `once` with an end: a test that waits for ever says nothing.
function event(emitter, name, what) {
  return once(emitter, name, { signal: AbortSignal.timeout(90000) }).catch(() => {
    throw new Error(`${what || name}: nothing after 90 s`);
  });
}

async function telemetry(hub, client, id) {
  const message = new Message(JSON.stringify({ t: 21.7 }));
  Object.assign(message, { contentType: 'application/json', contentEncoding: 'utf-8', messageId: UUID, correlationId: 'c-1' });
  message.properties.add('größe', '25 %');
  message.properties.add('alarm', 'true');
  await client.sendEvent(message);
  for (let i = 0; i < 20; i++) {
    await client.sendEvent(new Message(`${id} ${i}`));
  }
  await assert.rejects(client.sendEventBatch([new Message('x')]), { name: 'NotImplementedError' }); // the SDK's own word
  await client.sendEvent(new Message(Buffer.alloc(200000, 'x'))); // some frames
  // 100 at once: acknowledged together, stored in their order.
  await Promise.all(Array.from({ length: 100 }, (_, i) => client.sendEvent(new Message(`many ${i}`))));

  const events = hub.allEvents().filter((e) => e.deviceId === id);
  assert.deepStrictEqual(events[0].body, { t: 21.7 });
  assert.deepStrictEqual(events[0].properties, { 'größe': '25 %', alarm: 'true' });
  assert.strictEqual(events[0].systemProperties['message-id'], UUID);
  assert.strictEqual(events[0].systemProperties['correlation-id'], 'c-1');
  assert.strictEqual(events[0].systemProperties['content-type'], 'application/json');
  const method = JSON.parse(events[0].systemProperties['iothub-connection-auth-method']);
  assert.deepStrictEqual([method.scope, method.type], ['device', 'sas']);
  const bodies = events.slice(1).map((e) => e.body);
  assert.deepStrictEqual(bodies.filter((b) => b.startsWith(id)), Array.from({ length: 20 }, (_, i) => `${id} ${i}`));
  assert.deepStrictEqual(bodies.filter((b) => b.startsWith('many')), Array.from({ length: 100 }, (_, i) => `many ${i}`));
  assert.ok(bodies.includes('x'.repeat(200000)));
}

async function tooLarge(hub, text, transport) {
  const client = await connect(hub, text, transport);
  client.setRetryPolicy(new NoRetry());
  await assert.rejects(client.sendEvent(new Message(Buffer.alloc(262145 + 4096))), { name: 'MessageTooLargeError' });
  await client.sendEvent(new Message('goes on'));
  await client.close();
}

// One is completed, one rejected, one abandoned and then completed.
async function cloudToDevice(hub, client, id) {
  const seen = [];
  const settled = [];
  let turn = Promise.resolve(); // one by one: rhea tells of two outcomes in one go as if both were the first
  const done = new Promise((resolve) => {
    client.on('message', (message) => {
      const text = message.data.toString();
      seen.push(text);
      const settle = (how) => {
        turn = turn.then(() => new Promise((next) => {
          client[how](message, (err) => {
            assert.ifError(err);
            settled.push(text);
            setImmediate(settled.length === 4 ? resolve : next);
          });
        }));
      };
      if (text === 'two') {
        settle('reject');
      } else if (text === 'three' && seen.filter((t) => t === 'three').length === 1) {
        settle('abandon');
      } else {
        assert.strictEqual(message.properties.getValue('n'), text);
        assert.strictEqual(message.messageId, `id-${text}`);
        assert.strictEqual(message.to.toLowerCase(), `/devices/${id}/messages/devicebound`);
        settle('complete');
      }
    });
  });
  for (const text of ['one', 'two', 'three']) {
    await hub.ask('send', id, text, '-p', `n=${text}`, '--message-id', `id-${text}`);
  }
  await done;
  assert.deepStrictEqual(seen, ['one', 'two', 'three', 'three']);
  client.removeAllListeners('message');
}

async function twins(hub, client, id, where = []) {
  const ask = async (...args) => JSON.parse(await hub.ask(...args, ...where, '-o', 'json'));
  const twin = await client.getTwin();
  assert.strictEqual(twin.properties.desired.$version, 1);
  assert.strictEqual(twin.properties.reported.$version, 1);
  const report = (value) => new Promise((resolve, reject) => {
    twin.properties.reported.update(value, (err) => (err ? reject(err) : resolve()));
  });
  await report({ a: { b: 1, c: [1, 2.5] }, gone: true });
  await report({ gone: null, a: { b: 2 } });
  const stored = (await ask('twin', 'get', id)).properties.reported;
  assert.deepStrictEqual(stored.a, { b: 2, c: [1, 2.5] });
  assert.strictEqual(stored.$version, 3);
  assert.ok(!('gone' in stored));
  await assert.rejects(report({ long: 'x'.repeat(40000) }), (err) => err.amqpError.name === 'FormatError');

  const desired = [];
  twin.on('properties.desired', (delta) => {
    desired.push(structuredClone(delta));
    twin.emit('seen');
  });
  await client.getTwin(); // behind the subscription
  desired.length = 0; // what was there already
  for (const value of [1, 2]) {
    await ask('twin', 'patch', id, JSON.stringify({ properties: { desired: { value } } }));
  }
  while (!desired.some((delta) => delta.value === 2)) {
    await event(twin, 'seen', 'desired properties');
  }
  assert.deepStrictEqual(desired.map((d) => [d.value, d.$version]), [[1, 2], [2, 3]]);
  twin.removeAllListeners('properties.desired');
}

async function methods(hub, client, id, where = []) {
  const answer = (request, response) => {
    const status = request.methodName === 'fail' ? 500 : 200;
    response.send(status, { got: request.payload }, (err) => assert.ifError(err));
  };
  const on = (client.onDeviceMethod || client.onMethod).bind(client);
  on('echo', answer);
  on('fail', answer);
  const call = async (name, payload) => JSON.parse(await hub.ask('method', id, name, JSON.stringify(payload),
    '--connect-timeout', '60', '-o', 'json', ...where));
  for (const payload of [{ a: [1, 2.5, null] }, 'text', 7, null]) {
    assert.deepStrictEqual(await call('echo', payload), { status: 200, payload: { got: payload } });
  }
  assert.strictEqual((await call('fail', 1)).status, 500);
  const many = await Promise.all(Array.from({ length: 8 }, (_, i) => call('echo', i)));
  assert.deepStrictEqual(many.map((m) => m.payload.got), [0, 1, 2, 3, 4, 5, 6, 7]);
}

async function modules(hub, device, transport) {
  const client = await connect(hub, hub.json('module', 'add', device, 'm1').connectionString, transport);
  const message = new Message('from a module');
  message.properties.add('p', '1');
  await client.sendOutputEvent('out1', message);
  await Promise.all(['b1', 'b2'].map((text) => client.sendOutputEvent('out2', new Message(text))));
  const events = hub.allEvents().filter((e) => e.moduleId === 'm1' && e.deviceId === device);
  assert.deepStrictEqual(events.map((e) => [e.body, e.systemProperties['iothub-outputname']]),
    [['from a module', 'out1'], ['b1', 'out2'], ['b2', 'out2']]);
  assert.strictEqual(JSON.parse(events[0].systemProperties['iothub-connection-auth-method']).scope, 'module');
  await twins(hub, client, device, ['--module', 'm1']);
  await methods(hub, client, device, ['--module', 'm1']);
  await client.close();
}

// The newer connection of a device wins.
async function takeOver(hub, text, transport) {
  const first = await connect(hub, text, transport);
  first.setRetryPolicy(new NoRetry());
  first.on('message', () => {}); // of this link's end the SDK tells; the one for telemetry it would attach again in silence
  await first.getTwin(); // behind it
  await first.sendEvent(new Message('of the first'));
  const gone = event(first, 'disconnect', 'the end of the first connection');
  const second = await connect(hub, text, transport);
  await second.sendEvent(new Message('of the second'));
  await gone;
  await second.sendEvent(new Message('still of the second'));
  await second.close();
}

function makeCertificate(dir, name) {
  const key = path.join(dir, name + '.key');
  const cert = path.join(dir, name + '.pem');
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes',
    '-days', '2', '-subj', '/CN=' + name, '-keyout', key, '-out', cert], { stdio: 'ignore' });
  return { key: fs.readFileSync(key, 'utf8'), cert: fs.readFileSync(cert, 'utf8') };
}

async function certificates(hub, id, transport) {
  const own = makeCertificate(hub.dir, id);
  const thumbprint = new X509Certificate(own.cert).fingerprint256.replace(/:/g, '');
  hub.cli('device', 'add', id, '--auth', 'x509', '--thumbprint', thumbprint);
  const text = `HostName=localhost;DeviceId=${id};x509=true`;
  const client = await connect(hub, text, transport, { cert: own.cert, key: own.key });
  await client.sendEvent(new Message('by certificate'));
  const twin = await client.getTwin();
  assert.strictEqual(twin.properties.desired.$version, 1);
  await client.close();
  const stored = hub.allEvents().filter((e) => e.deviceId === id);
  assert.deepStrictEqual(stored.map((e) => e.body), ['by certificate']);
  assert.strictEqual(JSON.parse(stored[0].systemProperties['iothub-connection-auth-method']).type, 'x509');
  for (const wrong of [makeCertificate(hub.dir, `${id}-thief`), own]) {
    const who = wrong === own ? 'stranger' : id;
    const thief = Client.fromConnectionString(`HostName=localhost;DeviceId=${who};x509=true`, transport);
    thief.setRetryPolicy(new NoRetry());
    await thief.setOptions({ ca: hub.ca, cert: wrong.cert, key: wrong.key });
    await assert.rejects((async () => {
      await thief.open();
      await thief.sendEvent(new Message('stolen'));
    })(), { name: 'UnauthorizedError' });
  }
}

// A key that is not the device's, and a device that does not exist.
async function refusals(hub, text, transport) {
  const wrong = text.replace(/SharedAccessKey=.*/, `SharedAccessKey=${Buffer.alloc(32, 7).toString('base64')}`);
  for (const bad of [wrong, text.replace(/DeviceId=[^;]*/, 'DeviceId=nobody')]) {
    const client = Client.fromConnectionString(bad, transport);
    client.setRetryPolicy(new NoRetry());
    await client.setOptions({ ca: hub.ca });
    await assert.rejects(client.open(), { name: 'UnauthorizedError' });
  }
}

async function everything(hub, transport, id) {
  const text = hub.json('device', 'add', id).connectionString;
  const say = (part) => console.log(`${transport.name}: ${part.name}`); // the last one named is where a run hangs
  const client = await connect(hub, text, transport);
  for (const part of [telemetry, cloudToDevice, twins, methods]) {
    say(part);
    await part(hub, client, id);
  }
  say(modules);
  await modules(hub, id, transport);
  await client.close();
  for (const part of [takeOver, tooLarge, refusals]) {
    say(part);
    await part(hub, text, transport);
  }
  say(certificates);
  await certificates(hub, `${id}-x509`, transport);
}

withHub((hub) => Promise.all([everything(hub, Amqp, 'd1'), everything(hub, AmqpWs, 'd2')]));
