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

const WAIT_MS = 30000;

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
  const feedback = new Feedback(await service.getFeedbackReceiver());

  for (const [text, ack] of [['done', 'full'], ['refused', 'negative'], ['quiet', 'none'], ['late', 'positive']]) {
    await service.send('d1', message(text, `id-${text}`, ack));
  }
  await assert.rejects(service.send('nobody', message('x', 'x', 'full')), { name: 'DeviceNotFoundError' });
  await assert.rejects(service.send('d1', message('y'.repeat(65537), 'y', 'full')), { name: 'MessageTooLargeError' });
  const expired = message('expired', 'id-expired', 'full');
  expired.expiryTimeUtc = Date.now() + 300;
  await service.send('full', expired);
  await feedback.of('id-expired').then((record) => assert.strictEqual(record.statusCode, 'Expired'));
  for (let i = 0; i < 50; i++) {
    await service.send('full', message(String(i), `full-${i}`, 'none'));
  }
  await assert.rejects(service.send('full', message('51', 'full-50', 'none')), { name: 'IotHubQuotaExceededError' });

  const device = Client.fromConnectionString(
    `HostName=${shown.hostName};DeviceId=d1;SharedAccessKey=${identity.authentication.symmetricKey.primaryKey}`, Amqp);
  await device.open();
  const seen = [];
  device.on('message', (got) => {
    seen.push(got.data.toString());
    assert.strictEqual(got.properties.getValue('p'), seen.at(-1));
    device[seen.at(-1) === 'refused' ? 'reject' : 'complete'](got, (err) => assert.ifError(err));
  });
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
  assert.deepStrictEqual(seen, ['done', 'refused', 'quiet', 'late']);

  // The hub goes and comes: the client's next message goes over a connection of its own making.
  feedback.over = true;
  await ask('restart');
  const again = Service.fromConnectionString(shown.serviceConnectionString);
  await again.open();
  await again.send('d1', message('again', 'id-again', 'full'));
  const back = new Feedback(await again.getFeedbackReceiver());
  assert.strictEqual((await back.of('id-again')).statusCode, 'Success');
  await again.close();
  await device.close();
}

withHubAgain(__filename, test, async (hub) => {
  await hub.kill('SIGTERM');
  hub.options = ['--set', 'limits.c2d_depth=50'];
  await hub.start();
  return {
    restart: async () => {
      await hub.kill('SIGKILL');
      await hub.start();
    },
  };
});
