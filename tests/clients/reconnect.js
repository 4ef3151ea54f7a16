// The hub is killed in the middle of sending and started again: the SDK reconnects by itself, and everything that was
// acknowledged is there, in order.
/* conformance: mqtt.md 12, 21 */
'use strict';
const assert = require('node:assert');
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { withHub } = require('./hub');

const TOTAL = 300;

withHub(async (hub) => {
  const device = hub.json('device', 'add', 'd1');
  const client = Client.fromConnectionString(device.connectionString, Mqtt);
  await client.setOptions({ ca: hub.ca });
  await client.open();

  const acknowledged = [];
  let restart = null;
  for (let i = 0; i < TOTAL; i++) {
    if (i === TOTAL / 3) {
      restart = (async () => {
        await hub.kill('SIGKILL');
        await hub.start();
      })();
    }
    const message = new Message(String(i));
    await client.sendEvent(message); // retries inside the SDK until the hub is back
    acknowledged.push(i);
  }
  await restart;
  const seen = hub.allEvents().sort((a, b) => a.sequence - b.sequence); // one in flight may be there twice
  const numbers = seen.map((event) => Number(event.body));
  for (const i of acknowledged) {
    assert.ok(numbers.includes(i), `message ${i} was acknowledged and is missing`);
  }
  seen.forEach((event, i) => assert.strictEqual(event.sequence, seen[0].sequence + i, 'a hole in the sequence'));
  const once = numbers.filter((n, i) => numbers.indexOf(n) === i);
  assert.deepStrictEqual(once, [...once].sort((a, b) => a - b), 'the order of the device is broken');
  await client.close();
});
