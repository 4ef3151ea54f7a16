// Over AMQP: tokens that are renewed on the open connection, tokens that are not, and the SDKs' own fault injection.
/* conformance: amqp.md 18, 21, 22, 29 */
'use strict';
const assert = require('node:assert');
const { once } = require('node:events');
const fs = require('node:fs');
const { Client, Message, SharedAccessSignature } = require('azure-iot-device');
const { ConnectionString, NoRetry } = require('azure-iot-common');
const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
const { withHub } = require('./hub');

function token(text, seconds) {
  const c = ConnectionString.parse(text);
  const expiry = Math.floor(Date.now() / 1000) + seconds;
  return SharedAccessSignature.create(c.HostName, c.DeviceId, c.SharedAccessKey, expiry).toString();
}

const expiryOf = (text) => Number(/[?& ]se=(\d+)/.exec(text)[1]) * 1000;

const connections = (hub, id) => hub.text().split('\n').filter((line) => / connected/.test(line) && line.includes(`device=${id} `)).length;

// Tokens made by the application: renewed in time, then not renewed.
async function byHand(hub, transport, id) {
  const { connectionString } = hub.json('device', 'add', id);
  const client = Client.fromSharedAccessSignature(token(connectionString, 30), transport);
  client.setRetryPolicy(new NoRetry());
  await client.setOptions({ ca: hub.ca });
  await client.open();
  await client.sendEvent(new Message('with the first token'));
  const renewed = once(client, '_sharedAccessSignatureUpdated');
  const second = token(connectionString, 12);
  client.updateSharedAccessSignature(second);
  await renewed;
  await client.sendEvent(new Message('with the second token'));

  await once(client, 'disconnect'); // the hub ends it at the expiry, not before
  const early = expiryOf(second) - Date.now();
  assert.ok(early < 100, `ended ${early} ms before the expiry`);

  const again = Client.fromSharedAccessSignature(token(connectionString, 3600), transport);
  await again.setOptions({ ca: hub.ca });
  await again.open();
  await again.sendEvent(new Message('with the third token'));
  await again.close();
  return ['with the first token', 'with the second token', 'with the third token'];
}

// The SDK makes its tokens from the key and puts new ones on the connection that it has.
async function byItself(hub, transport, id) {
  const { connectionString } = hub.json('device', 'add', id);
  const client = Client.fromConnectionString(connectionString, transport);
  await client.setOptions({ ca: hub.ca, tokenRenewal: { tokenValidTimeInSeconds: 15, tokenRenewalMarginInSeconds: 11 } });
  let dropped = 0;
  client.on('disconnect', () => { dropped++; });
  await client.open();
  const started = Date.now();
  const sent = [];
  while (Date.now() - started < 20000) { // longer than a token lives
    sent.push(`renewing ${sent.length}`);
    await client.sendEvent(new Message(sent.at(-1)));
    await new Promise((resolve) => setTimeout(resolve, 20)); // a device's pace
  }
  assert.strictEqual(dropped, 0);
  assert.ok(connections(hub, id) <= 1, 'one connection did it all');
  await client.close();
  return sent;
}

function fault(type, delay, duration) {
  const message = new Message('fault');
  message.properties.add('AzIoTHub_FaultOperationType', type);
  message.properties.add('AzIoTHub_FaultOperationCloseReason', 'byebye');
  message.properties.add('AzIoTHub_FaultOperationDelayInSecs', String(delay));
  message.properties.add('AzIoTHub_FaultOperationDurationInSecs', String(duration));
  return message;
}

// A fault ends connection, session or a link; the device goes on by itself and nothing acknowledged is missing.
async function faults(hub, transport, type) {
  const client = Client.fromConnectionString(hub.json('device', 'add', type).connectionString, transport);
  await client.setOptions({ ca: hub.ca });
  await client.open();
  const sent = ['fault'];
  await client.sendEvent(fault(type, 1, 1)); // acknowledged before it happens
  const asked = Date.now();
  while (Date.now() - asked < 2500) { // across the moment of the fault
    sent.push(String(sent.length));
    await client.sendEvent(new Message(sent.at(-1)));
    await new Promise((resolve) => setTimeout(resolve, 20)); // a device's pace
  }
  await client.close();
  return sent;
}

// The quota is used up for a while: rejected, and the link stays.
async function quota(hub, transport, id) {
  const client = Client.fromConnectionString(hub.json('device', 'add', id).connectionString, transport);
  client.setRetryPolicy(new NoRetry());
  await client.setOptions({ ca: hub.ca });
  await client.open();
  await client.sendEvent(fault('InvokeMaxMessageQuota', 0, 5));
  const asked = Date.now();
  let refused = 0;
  const sent = ['fault'];
  while (!refused || sent.at(-1) !== 'after') {
    const text = refused ? 'after' : `before ${sent.length}`;
    await client.sendEvent(new Message(text)).then(() => sent.push(text), (err) => {
      assert.strictEqual(err.name, 'IotHubQuotaExceededError');
      refused++;
    });
    assert.ok(Date.now() - asked < 90000, 'never refused, or never allowed again');
    await new Promise((resolve) => setTimeout(resolve, 20)); // a device's pace
  }
  await client.close();
  return sent;
}

withHub(async (hub) => {
  const config = `${hub.dir}/nave.yaml`;
  fs.writeFileSync(config, 'testing:\n  fault_injection: true\n');
  await hub.kill('SIGTERM');
  hub.options = ['--config', config];
  await hub.start();
  // Not KillAmqpSession: what is sent while the SDK leaves a session that was ended under it is never answered by it.
  const kinds = ['KillTcp', 'KillAmqpConnection', 'KillAmqpCBSLinkReq', 'KillAmqpCBSLinkResp',
    'KillAmqpD2CLink', 'ShutDownAmqp'];
  const work = {
    hand: byHand(hub, Amqp, 'hand'),
    itself: byItself(hub, Amqp, 'itself'),
    'itself-ws': byItself(hub, AmqpWs, 'itself-ws'),
    quota: quota(hub, Amqp, 'quota'),
  };
  for (const kind of kinds) {
    work[kind] = faults(hub, Amqp, kind);
  }
  const sent = {};
  await Promise.all(Object.entries(work).map(async ([id, promise]) => {
    sent[id] = await promise.catch((err) => {
      err.message = `${id}: ${err.message}`;
      throw err;
    });
    console.log(`${id}: ${sent[id].length} messages`); // the one not named is where a run hangs
  }));
  const events = hub.allEvents();
  for (const [id, bodies] of Object.entries(sent)) {
    // Nothing lost, nothing out of order; what was in flight when a connection ended may be there twice.
    const stored = events.filter((event) => event.deviceId === id).map((event) => event.body);
    assert.deepStrictEqual(stored.filter((body, i) => stored.indexOf(body) === i), bodies, id);
  }
});
