// azure-iot-device over HTTPS: single and batched events; messages received, completed, rejected, abandoned; by SAS and
// by certificate.
/* conformance: http-hub.md 35, 36 */
'use strict';
const assert = require('node:assert');
const { execFileSync } = require('node:child_process');
const { X509Certificate } = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { Client, Message } = require('azure-iot-device');
const { NoRetry } = require('azure-iot-common');
const { Http } = require('azure-iot-device-http');
const { withHub } = require('./hub');

// `nave send` is the service here; AMQP comes with the SDKs' own way.
function send(hub, id, body, fields = {}) {
  const token = hub.cli('sas', '--policy', 'service').trim();
  const text = execFileSync('curl', ['-sS', '--fail', '--cacert', hub.json('hub', 'show').caFile, '-H',
    `Authorization: ${token}`, '-H', 'Content-Type: application/json', '-d', JSON.stringify({ body, ...fields }),
    `https://localhost/nave/v1/devices/${id}/messages`], { encoding: 'utf8' });
  return JSON.parse(text);
}

function feedback(hub) {
  const token = hub.cli('sas', '--policy', 'service').trim();
  const text = execFileSync('curl', ['-sS', '--fail', '--cacert', hub.json('hub', 'show').caFile, '-H',
    `Authorization: ${token}`, 'https://localhost/messages/serviceBound/feedback?api-version=2021-04-12'],
  { encoding: 'utf8' });
  return text ? JSON.parse(text) : [];
}

// The SDK asks for messages by itself, and for more at once than were waited for.
class Inbox {
  constructor(client) {
    this.messages = [];
    this.waiting = [];
    client.on('message', (message) => {
      const resolve = this.waiting.shift();
      if (resolve) {
        resolve(message);
      } else {
        this.messages.push(message);
      }
    });
  }

  next() {
    const message = this.messages.shift();
    return message ? Promise.resolve(message) : new Promise((resolve) => this.waiting.push(resolve));
  }
}

async function telemetry(hub, client, id) {
  const message = new Message(JSON.stringify({ t: 21.7 }));
  message.contentType = 'application/json';
  message.contentEncoding = 'utf-8';
  message.messageId = 'm-1';
  message.properties.add('alert', 'yes');
  await client.sendEvent(message);
  const second = new Message('two');
  second.properties.add('n', '2');
  await client.sendEventBatch([new Message('one'), second]);
  const events = hub.allEvents().filter((e) => e.deviceId === id);
  assert.strictEqual(events.length, 3);
  assert.deepStrictEqual(events[0].body, { t: 21.7 });
  assert.strictEqual(events[0].properties.alert, 'yes');
  assert.strictEqual(events[0].systemProperties['message-id'], 'm-1');
  assert.strictEqual(events[1].body, 'one');
  assert.strictEqual(events[2].body, 'two');
  assert.strictEqual(events[2].properties.n, '2');
  return events[0];
}

async function messages(hub, client, id) {
  const inbox = new Inbox(client);
  send(hub, id, 'first', { messageId: 'a', ack: 'full', properties: { color: 'red' } });
  send(hub, id, 'second', { messageId: 'b', ack: 'full', contentType: 'text/plain', contentEncoding: 'utf-8' });
  const first = await inbox.next();
  assert.strictEqual(first.getData().toString(), 'first');
  assert.strictEqual(first.messageId, 'a');
  assert.strictEqual(first.properties.getValue('iothub-app-color'), 'red'); // this SDK leaves the prefix on
  await client.abandon(first);
  const next = [await inbox.next(), await inbox.next()]; // the second may have been taken before
  const again = next.find((message) => message.messageId === 'a');
  const second = next.find((message) => message.messageId === 'b');
  await client.complete(again);
  await client.reject(second);
  await assert.rejects(client.complete(second)); // its lock is gone
  const outcomes = feedback(hub).filter((r) => r.deviceId === id).map((r) => `${r.originalMessageId}=${r.statusCode}`);
  assert.deepStrictEqual(outcomes, ['a=Success', 'b=Rejected']);
}

async function bySas(hub) {
  const device = hub.json('device', 'add', 'd1');
  const client = Client.fromConnectionString(device.connectionString, Http);
  await client.setOptions({ ca: hub.ca, http: { receivePolicy: { interval: 1 } } });
  await client.open();
  const event = await telemetry(hub, client, 'd1');
  assert.strictEqual(JSON.parse(event.systemProperties['iothub-connection-auth-method']).type, 'sas');
  await messages(hub, client, 'd1');
  const shown = hub.json('device', 'show', 'd1');
  assert.notStrictEqual(shown.lastActivityTime, '0001-01-01T00:00:00Z');
  assert.strictEqual(shown.connectionState, 'Disconnected');
}

function makeCertificate(dir, name) {
  const key = path.join(dir, name + '.key');
  const cert = path.join(dir, name + '.pem');
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes',
    '-days', '2', '-subj', '/CN=' + name, '-keyout', key, '-out', cert], { stdio: 'ignore' });
  return { key: fs.readFileSync(key, 'utf8'), cert: fs.readFileSync(cert, 'utf8') };
}

async function byCertificate(hub) {
  const own = makeCertificate(hub.dir, 'x1');
  const thumbprint = new X509Certificate(own.cert).fingerprint256.replace(/:/g, '');
  hub.cli('device', 'add', 'x1', '--auth', 'x509', '--thumbprint', thumbprint);
  const client = Client.fromConnectionString('HostName=localhost;DeviceId=x1;x509=true', Http);
  await client.setOptions({ ca: hub.ca, cert: own.cert, key: own.key, http: { receivePolicy: { interval: 1 } } });
  await client.open();
  const event = await telemetry(hub, client, 'x1');
  assert.strictEqual(JSON.parse(event.systemProperties['iothub-connection-auth-method']).type, 'x509');
  await messages(hub, client, 'x1');
  const other = makeCertificate(hub.dir, 'x2');
  const stranger = Client.fromConnectionString('HostName=localhost;DeviceId=x1;x509=true', Http);
  // Without a receive policy this transport's setOptions never ends.
  await stranger.setOptions({ ca: hub.ca, cert: other.cert, key: other.key, http: { receivePolicy: { interval: 1 } } });
  stranger.setRetryPolicy(new NoRetry());
  await stranger.open();
  await assert.rejects(stranger.sendEvent(new Message('no')));
}

withHub(async (hub) => {
  await bySas(hub);
  await byCertificate(hub);
});
