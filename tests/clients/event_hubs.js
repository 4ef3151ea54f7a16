// @azure/event-hubs by the connection string of `nave hub show`: properties, every start position, owner levels, checkpoints,
// WebSocket, the emulator's form without TLS, and the hub killed in the middle of reading.
/* conformance: amqp.md 2, 4, 10, 16, 17, 19, 45, 46, 48, 49, 50, 51, 52, 54, 55 */
'use strict';
const assert = require('node:assert');
const { once, EventEmitter } = require('node:events');
const { EventHubConsumerClient, EventHubProducerClient, earliestEventPosition, latestEventPosition } = require(
  process.env.EVENT_HUBS || '@azure/event-hubs');
const { Registry } = require('azure-iothub');
const { Client, Message } = require('azure-iot-device');
const { Amqp } = require('azure-iot-device-amqp');
const WebSocket = require('ws');
const { ask, withHubAgain } = require('./hub');

const DEVICES = 8;
const EACH = 50;
const GROUP = '$Default';
const WAIT_MS = 90000;
const options = { retryOptions: { retryDelayInMs: 200, maxRetryDelayInMs: 1000, timeoutInMs: 60000, maxRetries: 60 } };

// What one subscription read.
class Reader extends EventEmitter {
  constructor(client, subscribeOptions, partition) {
    super();
    Object.assign(this, { events: [], errors: [], closed: [] });
    const handlers = {
      processEvents: async (events, context) => {
        this.events.push(...events.map((event) => ({ partition: context.partitionId, event })));
        if (events.length && subscribeOptions.checkpoint) {
          await context.updateCheckpoint(events.at(-1));
        }
        this.last = context.lastEnqueuedEventProperties || this.last;
        this.emit('changed');
      },
      processError: async (err) => {
        this.errors.push(err);
        this.emit('changed');
      },
      processClose: async (reason) => { this.closed.push(reason); },
    };
    const given = { maxBatchSize: 100, maxWaitTimeInSeconds: 0.2, ...subscribeOptions };
    this.subscription = partition === undefined ? client.subscribe(handlers, given) : client.subscribe(partition, handlers, given);
  }

  async until(condition, what) {
    const limit = AbortSignal.timeout(WAIT_MS);
    while (!condition(this)) {
      await once(this, 'changed', { signal: limit }).catch(() => {
        throw new Error(`${what}: ${this.events.length} events after ${WAIT_MS / 1000} s, errors ${this.errors}`);
      });
    }
  }

  // Per partition without a hole and without an event twice.
  inOrder() {
    const next = {};
    for (const { partition, event } of this.events) {
      assert.ok(!(partition in next) || event.sequenceNumber === next[partition], `partition ${partition}: ${event.sequenceNumber}`);
      next[partition] = event.sequenceNumber + 1;
    }
  }
}

async function read(client, count, subscribeOptions, partition) {
  const reader = new Reader(client, subscribeOptions, partition);
  await reader.until((r) => r.events.length >= count, `${count} events`);
  await reader.subscription.close();
  assert.deepStrictEqual(reader.errors, []);
  reader.inOrder();
  return reader.events;
}

async function connectDevices(shown) {
  const registry = Registry.fromConnectionString(shown.serviceConnectionString);
  return Promise.all(Array.from({ length: DEVICES }, async (_, i) => {
    const identity = (await registry.create({ deviceId: `d${i}` })).responseBody;
    const client = Client.fromConnectionString(
      `HostName=${shown.hostName};DeviceId=d${i};SharedAccessKey=${identity.authentication.symmetricKey.primaryKey}`, Amqp);
    await client.open();
    client.generation = identity.generationId;
    return client;
  }));
}

async function fill(devices) {
  await Promise.all(devices.map((device, d) => Promise.all(Array.from({ length: EACH }, (_, n) => {
    const message = new Message(JSON.stringify({ d, n }));
    message.contentType = 'application/json';
    message.contentEncoding = 'utf-8';
    message.messageId = `${d}-${n}`;
    message.properties.add('n', String(n));
    return device.sendEvent(message);
  }))));
}

async function properties(client, shown) {
  const hub = await client.getEventHubProperties();
  assert.strictEqual(hub.name, /EntityPath=([^;]*)/.exec(shown.eventHubConnectionString)[1]);
  assert.deepStrictEqual(hub.partitionIds, ['0', '1', '2', '3']);
  assert.deepStrictEqual(await client.getPartitionIds(), hub.partitionIds);
  assert.ok(Math.abs(hub.createdOn - Date.now()) < 600000, `${hub.createdOn}`);
  let sum = 0;
  for (const id of hub.partitionIds) {
    const p = await client.getPartitionProperties(id);
    assert.strictEqual(p.partitionId, id);
    assert.strictEqual(p.beginningSequenceNumber, 0);
    sum += p.isEmpty ? 0 : p.lastEnqueuedSequenceNumber + 1;
    if (!p.isEmpty) {
      assert.ok(Math.abs(p.lastEnqueuedOnUtc - Date.now()) < 600000, `${p.lastEnqueuedOnUtc}`);
      assert.match(String(p.lastEnqueuedOffset), /^\d+$/);
    }
  }
  assert.strictEqual(sum, DEVICES * EACH);
  await assert.rejects(client.getPartitionProperties('77'), { code: 'ServiceCommunicationError' });
}

async function contents(client, devices) {
  const events = await read(client, DEVICES * EACH, { startPosition: earliestEventPosition, trackLastEnqueuedEventProperties: true });
  assert.strictEqual(events.length, DEVICES * EACH);
  const next = Array(DEVICES).fill(0);
  for (const { event } of events) {
    const { d, n } = event.body;
    assert.strictEqual(n, next[d]++, `device ${d}`);
    assert.deepStrictEqual(event.properties, { n: String(n) });
    assert.strictEqual(event.messageId, `${d}-${n}`);
    assert.strictEqual(event.contentType, 'application/json');
    assert.strictEqual(event.systemProperties['iothub-connection-device-id'], `d${d}`);
    assert.strictEqual(event.systemProperties['iothub-connection-auth-generation-id'], devices[d].generation);
    assert.strictEqual(JSON.parse(event.systemProperties['iothub-connection-auth-method']).scope, 'device');
    assert.strictEqual(event.systemProperties['iothub-message-source'], 'Telemetry');
    assert.ok(Math.abs(event.enqueuedTimeUtc - Date.now()) < 600000);
    assert.ok(Math.abs(event.systemProperties['iothub-enqueuedtime'] - Date.now()) < 600000);
    assert.strictEqual(typeof event.sequenceNumber, 'number');
    assert.match(String(event.offset), /^\d+$/);
  }
  return events;
}

async function positions(client, events) {
  const partition = events[0].partition;
  const mine = events.filter((e) => e.partition === partition).map((e) => e.event);
  const middle = mine[20];
  const first = async (startPosition) => (await read(client, 1, { startPosition, maxBatchSize: 1 }, partition))[0].event.sequenceNumber;
  assert.strictEqual(await first({ sequenceNumber: middle.sequenceNumber }), middle.sequenceNumber + 1);
  assert.strictEqual(await first({ sequenceNumber: middle.sequenceNumber, isInclusive: true }), middle.sequenceNumber);
  assert.strictEqual(await first({ offset: middle.offset }), middle.sequenceNumber + 1);
  assert.strictEqual(await first({ offset: middle.offset, isInclusive: true }), middle.sequenceNumber);
  const at = middle.enqueuedTimeUtc.getTime();
  const after = mine.find((e) => e.enqueuedTimeUtc.getTime() >= at);
  assert.strictEqual(await first({ enqueuedOn: at - 1 }), after.sequenceNumber);
  const last = new Reader(client, { startPosition: earliestEventPosition, trackLastEnqueuedEventProperties: true }, partition);
  await last.until((r) => r.events.length === mine.length && r.last, 'runtime metrics');
  assert.strictEqual(last.last.sequenceNumber, mine.at(-1).sequenceNumber);
  await last.subscription.close();
}

// Only what comes from now on: markers are sent until the first is seen.
async function latest(client, devices) {
  const reader = new Reader(client, { startPosition: latestEventPosition });
  let seen = false;
  reader.until((r) => r.events.length > 0, 'the latest').then(() => { seen = true; });
  let sent = 0;
  while (!seen) {
    await devices[0].sendEvent(new Message(`marker ${sent++}`));
    await new Promise((resolve) => setTimeout(resolve, 20)); // when its links stand, the client does not tell
  }
  await devices[0].sendEvent(new Message(`marker ${sent++}`));
  await reader.until((r) => r.events.some((e) => String(e.event.body) === `marker ${sent - 1}`), 'the last marker');
  await reader.subscription.close();
  assert.ok(reader.events.every((e) => String(e.event.body).startsWith('marker')), 'an old event');
  reader.inOrder();
}

async function owners(shown) {
  const make = () => new EventHubConsumerClient('owners', shown.eventHubConnectionString, options);
  const [low, high, none] = [make(), make(), make()];
  const start = { startPosition: earliestEventPosition };
  const first = new Reader(low, { ...start, ownerLevel: 1 }, '0');
  await first.until((r) => r.events.length > 0, 'events of the first owner');
  const second = new Reader(high, { ...start, ownerLevel: 2 }, '0');
  await first.until((r) => r.errors.length > 0, 'the first owner is told');
  assert.strictEqual(first.errors[0].code, 'ReceiverDisconnectedError');
  await second.until((r) => r.events.length > 0, 'events of the second owner');
  await first.subscription.close();
  for (const more of [{ ownerLevel: 1 }, {}]) {
    const late = new Reader(none, { ...start, ...more }, '0');
    await late.until((r) => r.errors.length > 0, 'a lower owner is refused');
    assert.strictEqual(late.errors[0].code, 'ReceiverDisconnectedError');
    await late.subscription.close();
  }
  assert.deepStrictEqual(second.errors, []);
  await second.subscription.close();
  await Promise.all([low.close(), high.close(), none.close()]);
}

class Checkpoints {
  constructor() {
    this.owned = new Map();
    this.kept = new Map();
  }

  async listOwnership() {
    return [...this.owned.values()];
  }

  async claimOwnership(list) {
    return list.map((one) => {
      const etag = String(Math.random());
      const made = { ...one, etag, lastModifiedTimeInMs: Date.now() };
      this.owned.set(one.partitionId, made);
      return made;
    });
  }

  async updateCheckpoint(one) {
    this.kept.set(one.partitionId, one);
  }

  async listCheckpoints() {
    return [...this.kept.values()];
  }
}

async function checkpoints(shown, total) {
  const store = new Checkpoints();
  const started = { startPosition: earliestEventPosition, checkpoint: true, maxBatchSize: 10 };
  const open = () => new EventHubConsumerClient('checkpoints', shown.eventHubConnectionString, store,
    { ...options, loadBalancingOptions: { strategy: 'greedy', updateIntervalInMs: 200, partitionOwnershipExpirationIntervalInMs: 60000 } });
  const one = open();
  const first = new Reader(one, started);
  await first.until((r) => r.events.length > total / 3, 'a third');
  await first.subscription.close();
  await one.close();
  const before = [...store.kept.values()].reduce((sum, c) => sum + c.sequenceNumber + 1, 0);
  assert.strictEqual(before, first.events.length, 'checkpoints say what was read');
  const two = open();
  const rest = new Reader(two, started);
  await rest.until((r) => r.events.length >= total - first.events.length, 'the rest');
  await rest.subscription.close();
  await two.close();
  const seen = new Set([...first.events, ...rest.events].map((e) => `${e.partition}/${e.event.sequenceNumber}`));
  assert.strictEqual(seen.size, first.events.length + rest.events.length);
  assert.strictEqual(seen.size, total);
}

// A policy that may not read, a wrong key, a group that does not exist, and sending, which the endpoint does not offer.
async function refusals(shown) {
  const string = shown.eventHubConnectionString;
  const once1 = { retryOptions: { maxRetries: 0, timeoutInMs: 60000 } };
  const refused = async (group, text, code) => {
    const client = new EventHubConsumerClient(group, text, once1);
    const reader = new Reader(client, { startPosition: earliestEventPosition }, '0');
    await reader.until((r) => r.errors.length > 0, `refusal of ${group}`);
    assert.strictEqual(reader.errors[0].code, code);
    await reader.subscription.close();
    await client.close();
  };
  const wrong = string.replace(/SharedAccessKey=[^;]*/, `SharedAccessKey=${Buffer.alloc(32, 7).toString('base64')}`);
  await Promise.all([refused(GROUP, wrong, 'UnauthorizedError'), refused('nobody', string, 'ServiceCommunicationError'),
    refused(GROUP, string.replace(/EntityPath=[^;]*/, 'EntityPath=elsewhere'), 'ServiceCommunicationError')]);
  const producer = new EventHubProducerClient(string, once1);
  await assert.rejects(producer.sendBatch([{ body: 'x' }]), { code: 'UnauthorizedError' });
  await producer.close();
}

async function otherWays(shown, total) {
  const overWebSocket = new EventHubConsumerClient(GROUP, shown.eventHubConnectionString,
    { ...options, webSocketOptions: { webSocket: WebSocket } });
  const text = shown.eventHubConnectionString.replace(/Endpoint=sb:\/\/[^;/]*\/?/, 'Endpoint=sb://localhost') +
    ';UseDevelopmentEmulator=true';
  const plain = new EventHubConsumerClient(GROUP.toLowerCase(), text, options);
  for (const client of [overWebSocket, plain]) {
    assert.strictEqual((await client.getPartitionIds()).length, 4);
    await read(client, total, { startPosition: earliestEventPosition });
    await client.close();
  }
}

// Reading and writing go on while the hub is killed and comes back: nothing is missed, nothing comes twice.
async function killed(client, devices, total) {
  // With checkpoints: the client may begin a partition anew, and does so where they are.
  const reader = new Reader(client, { startPosition: earliestEventPosition, checkpoint: true });
  await reader.until((r) => r.events.length >= total, 'all until now');
  let stop = false;
  const sent = devices.map(() => 0);
  const writing = devices.map(async (device, d) => {
    for (; !stop; sent[d]++) {
      await device.sendEvent(new Message(JSON.stringify({ killed: d, n: sent[d] })));
      await new Promise((resolve) => setTimeout(resolve, 5)); // a device's pace
    }
  });
  await reader.until((r) => r.events.length >= total + 100, 'events before');
  await ask('kill');
  const back = reader.events.length;
  await reader.until((r) => r.events.length >= back + 200, 'events after');
  stop = true;
  await Promise.all(writing);
  const got = () => reader.events.map((e) => (Buffer.isBuffer(e.event.body) ? e.event.body.toString() : e.event.body))
    .map((b) => (typeof b === 'string' && b.startsWith('{') ? JSON.parse(b) : b)).filter((b) => b && b.killed !== undefined);
  await reader.until(() => sent.every((n, d) => got().some((b) => b.killed === d && b.n === n - 1)), 'the last ones');
  await reader.subscription.close();
  reader.inOrder();
  sent.forEach((count, d) => {
    const numbers = got().filter((b) => b.killed === d).map((b) => b.n); // one in flight may have been sent again
    assert.deepStrictEqual([...new Set(numbers)], Array.from({ length: count }, (_, n) => n), `device ${d}`);
  });
}

async function test(shown) {
  const client = new EventHubConsumerClient(GROUP, shown.eventHubConnectionString, options);
  const devices = await connectDevices(shown);
  await fill(devices);
  const say = (part) => console.log(part.name); // the last one named is where a run hangs
  say(properties);
  await properties(client, shown);
  say(contents);
  const events = await contents(client, devices);
  const total = events.length;
  say(positions);
  await positions(client, events);
  say(otherWays);
  await Promise.all([otherWays(shown, total), checkpoints(shown, total), owners(shown), refusals(shown)]);
  say(latest);
  await latest(client, devices);
  say(killed);
  await killed(client, devices, total);
  await Promise.all(devices.map((device) => device.close()));
  await client.close();
}

withHubAgain(__filename, test, async (hub) => {
  await hub.kill('SIGTERM');
  hub.options = ['--set', 'amqp.plain_port=5672'];
  await hub.start();
  hub.cli('consumer-group', 'add', 'owners'); // those with a level end all others of their group
  hub.cli('consumer-group', 'add', 'checkpoints');
  return {
    kill: async () => {
      await hub.kill('SIGKILL');
      await hub.start();
    },
  };
});
