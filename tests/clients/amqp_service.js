// azure-iothub over AMQP, as a back end uses it: messages to devices, refusals by name, feedback, and the hub restarted
// under a client that goes on.
/* conformance: amqp.md 4, 12, 13, 16, 19, 31, 39, 40 */
'use strict';
const assert = require('node:assert');
const { once } = require('node:events');
const { Client: Service, Registry } = require('azure-iothub');
const { Client } = require('azure-iot-device');
const { Amqp } = require('azure-iot-device-amqp');
const { Message } = require('azure-iot-common');
const { ask, withHubAgain } = require('./hub');

const WAIT_MS = 90000;
const BATCH = 64; // records of feedback in one message

function event(emitter, name) {
  return once(emitter, name, { signal: AbortSignal.timeout(WAIT_MS) });
}

function message(text, id, ack) {
  const made = new Message(text);
  made.messageId = id;
  made.ack = ack;
  made.properties.add('p', text);
  return made;
}

class Feedback {
  constructor(receiver) {
    this.records = [];
    receiver.on('message', (batch) => {
      this.records.push(...JSON.parse(batch.data.toString()));
      this.content = batch.contentType;
      receiver.complete(batch, () => receiver.emit('records'));
    });
    receiver.on('error', (err) => {
      if (!this.over) {
        throw err;
      }
    });
    this.receiver = receiver;
  }

  async of(id) {
    for (;;) {
      const record = this.records.find((r) => r.originalMessageId === id);
      if (record) {
        return record;
      }
      await event(this.receiver, 'records');
    }
  }
}

async function test(shown) {
  const registry = Registry.fromConnectionString(shown.serviceConnectionString);
  const identity = (await registry.create({ deviceId: 'd1' })).responseBody;
  await registry.create({ deviceId: 'full' });
  const service = Service.fromConnectionString(shown.serviceConnectionString);
  await service.open();
  const feedback = new Feedback((await service.getFeedbackReceiver()).result);

  await assert.rejects(service.send('nobody', message('x', 'x', 'full')), { name: 'DeviceNotFoundError' });
  await assert.rejects(service.send('d1', message('y'.repeat(65537), 'y', 'full')), { name: 'MessageTooLargeError' });
  for (let i = 0; i < 100; i++) {
    await service.send('full', message(String(i), `full-${i}`, 'none'));
  }
  await assert.rejects(service.send('full', message('one more', 'full-100', 'none')), { name: 'DeviceMaximumQueueDepthExceededError' });

  const device = Client.fromConnectionString(
    `HostName=${shown.hostName};DeviceId=d1;SharedAccessKey=${identity.authentication.symmetricKey.primaryKey}`, Amqp);
  await device.open();
  const seen = [];
  let settled = Promise.resolve(); // one by one: rhea tells of two outcomes in one go as if both were the first
  device.on('message', (got) => {
    const text = got.data.toString();
    seen.push(text);
    device.emit('seen');
    settled = settled.then(() => new Promise((resolve) => {
      device[text === 'refused' ? 'reject' : 'complete'](got, (err) => {
        assert.ifError(err);
        setImmediate(resolve);
      });
    }));
  });
  const sent = [['done', 'full'], ['refused', 'negative'], ['quiet', 'none'], ['late', 'positive']];
  for (let i = 3; i < BATCH; i++) {
    sent.push([`more ${i}`, 'full']); // a batch goes when it is full; otherwise it waits for some seconds
  }
  for (const [text, ack] of sent) {
    await service.send('d1', message(text, `id-${text}`, ack));
  }
  const record = await feedback.of('id-done');
  assert.deepStrictEqual(Object.keys(record).sort(),
    ['description', 'deviceGenerationId', 'deviceId', 'enqueuedTimeUtc', 'originalMessageId', 'statusCode']);
  assert.strictEqual(record.deviceId, 'd1');
  assert.strictEqual(record.deviceGenerationId, identity.generationId);
  assert.strictEqual(feedback.content, 'application/vnd.microsoft.iothub.feedback.json');
  assert.strictEqual((await feedback.of('id-refused')).statusCode, 'Rejected');
  assert.strictEqual((await feedback.of('id-late')).statusCode, 'Success');
  assert.strictEqual(record.statusCode, 'Success');
  assert.ok(!feedback.records.some((r) => r.originalMessageId === 'id-quiet'));
  while (seen.length < sent.length) { // where it takes long, what is told so far goes before the batch is full
    await event(device, 'seen');
  }
  assert.deepStrictEqual(seen, sent.map(([text]) => text));

  // The hub goes and comes: the client's next message goes over a connection of its own making.
  feedback.over = true;
  await ask('restart');
  const again = Service.fromConnectionString(shown.serviceConnectionString);
  await again.open();
  const deviceIsBack = event(device, 'message'); // its queue is shorter than a batch
  await again.send('d1', message('first', 'id-again', 'none'));
  await deviceIsBack;
  for (let i = 0; i < BATCH; i++) {
    await again.send('d1', message('again', `id-again-${i}`, 'full'));
  }
  const back = new Feedback((await again.getFeedbackReceiver()).result);
  assert.strictEqual((await back.of('id-again-0')).statusCode, 'Success');
  await again.close();
  await device.close();
}

withHubAgain(__filename, test, async (hub) => {
  await hub.kill('SIGTERM');
  hub.options = ['--set', 'limits.c2d_depth=100'];
  await hub.start();
  return {
    restart: async () => {
      await hub.kill('SIGKILL');
      await hub.start();
    },
  };
});
