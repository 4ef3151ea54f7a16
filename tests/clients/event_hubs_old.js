// azure-event-hubs 0.2 finds the endpoint by the hub's own connection string: a link there is redirected to it.
/* conformance: amqp.md 4, 17, 19, 26, 42, 43, 44, 45, 46, 48, 49, 50, 51 */
'use strict';
const assert = require('node:assert');
const crypto = require('node:crypto');
const { once, EventEmitter } = require('node:events');
const { EventHubClient, EventPosition } = require('azure-event-hubs');
const { Registry } = require('azure-iothub');
const { Client, Message } = require('azure-iot-device');
const { Amqp } = require('azure-iot-device-amqp');
const { Connection, ReceiverEvents } = require('rhea-promise');
const { ask, withHubAgain } = require('./hub');

const COUNT = 40;

async function collect(client, partition, count, options) {
  const seen = new EventEmitter();
  const events = [];
  const handler = client.receive(partition, (event) => {
    events.push(event);
    seen.emit('event');
  }, (err) => seen.emit('error', err), options);
  while (events.length < count) {
    await once(seen, 'event', { signal: AbortSignal.timeout(90000) });
  }
  await handler.stop();
  return events;
}

// The way that is documented for the newer Event Hubs SDKs (IoT Explorer goes it, too): a login with a token for the
// events alone, and a listener for the redirect that is there only once the link is attached.
async function documented(shown) {
  const resource = encodeURIComponent(`${shown.hostName}/messages/events`);
  const end = Math.ceil(Date.now() / 1000) + 300;
  const mac = crypto.createHmac('sha256', Buffer.from(shown.policies.service.primaryKey, 'base64'));
  const signature = encodeURIComponent(mac.update(`${resource}\n${end}`).digest('base64'));
  const connection = new Connection({
    transport: 'tls', host: shown.hostName, hostname: shown.hostName, port: 5671, reconnect: false,
    username: `service@sas.root.${shown.hostName.split('.')[0]}`,
    password: `SharedAccessSignature sr=${resource}&sig=${signature}&se=${end}&skn=service`,
  });
  await connection.open();
  const receiver = await connection.createReceiver({ source: { address: `amqps://${shown.hostName}/messages/events/$management` } });
  const [context] = await once(receiver, ReceiverEvents.receiverError, { signal: AbortSignal.timeout(10000) });
  const { condition, info } = context.receiver.error;
  assert.strictEqual(condition, 'amqp:link:redirect');
  assert.strictEqual(info.hostname, shown.hostName);
  assert.strictEqual(/:\d+\/(.*)\/\$management/i.exec(info.address)[1], /EntityPath=([^;]*)/.exec(shown.eventHubConnectionString)[1]);
  await connection.close();
}

async function test(shown) {
  await documented(shown);
  const registry = Registry.fromConnectionString(shown.serviceConnectionString);
  const identity = (await registry.create({ deviceId: 'd1' })).responseBody;
  const text = `HostName=${shown.hostName};DeviceId=d1;SharedAccessKey=${identity.authentication.symmetricKey.primaryKey}`;
  const device = Client.fromConnectionString(text, Amqp);
  await device.open();
  await Promise.all(Array.from({ length: COUNT }, (_, n) => {
    const message = new Message(JSON.stringify({ n }));
    message.properties.add('n', String(n));
    return device.sendEvent(message);
  }));
  await device.close();

  const client = await EventHubClient.createFromIotHubConnectionString(shown.serviceConnectionString);
  const about = await client.getHubRuntimeInformation();
  assert.deepStrictEqual(about.partitionIds, ['0', '1', '2', '3']);
  assert.strictEqual(about.path, /EntityPath=([^;]*)/.exec(shown.eventHubConnectionString)[1]);
  let partition;
  for (const id of await client.getPartitionIds()) {
    const p = await client.getPartitionInformation(id);
    partition = p.lastSequenceNumber === COUNT - 1 ? id : partition;
  }
  const events = await collect(client, partition, COUNT, { eventPosition: EventPosition.fromStart() });
  assert.deepStrictEqual(events.map((e) => e.body.n), Array.from({ length: COUNT }, (_, n) => n));
  assert.deepStrictEqual(events.map((e) => e.sequenceNumber), events.map((e) => e.body.n));
  assert.ok(events.every((e) => e.annotations['iothub-connection-device-id'] === 'd1' && e.applicationProperties.n === String(e.body.n)));
  const first = async (eventPosition) => (await collect(client, partition, 1, { eventPosition }))[0].body.n;
  assert.strictEqual(await first(EventPosition.fromSequenceNumber(7)), 8);
  assert.strictEqual(await first(EventPosition.fromSequenceNumber(7, true)), 7);
  assert.strictEqual(await first(EventPosition.fromOffset(events[9].offset)), 10);
  assert.strictEqual(await first(EventPosition.fromEnqueuedTime(events[0].enqueuedTimeUtc.getTime() - 1)), 0);
  // The hub is killed under a receiver; it comes back by itself behind the last event that it saw.
  const seen = new EventEmitter();
  const later = [];
  const handler = client.receive(partition, (event) => {
    later.push(event.sequenceNumber);
    seen.emit('event');
  }, (err) => console.log(`receiver: ${err.name}`), { eventPosition: EventPosition.fromSequenceNumber(events.at(-1).sequenceNumber) });
  const until = async (count) => {
    while (later.length < count) {
      await once(seen, 'event', { signal: AbortSignal.timeout(90000) });
    }
  };
  const again = Client.fromConnectionString(text, Amqp);
  await again.open();
  await again.sendEvent(new Message('before'));
  await until(1);
  await ask('kill');
  await again.sendEvent(new Message('after')); // the device connects again by itself, too
  await until(2);
  await again.close();
  await handler.stop();
  assert.deepStrictEqual(later, [COUNT, COUNT + 1]);
  const batch = await client.receiveBatch(partition, 5, 60, { eventPosition: EventPosition.fromStart(), epoch: 3 });
  assert.deepStrictEqual(batch.map((e) => e.body.n), [0, 1, 2, 3, 4]);
  await client.close();
}

withHubAgain(__filename, test, async (hub) => ({
  kill: async () => {
    await hub.kill('SIGKILL');
    await hub.start();
  },
}));
