// The SDKs' own fault injection: azure-iot-device asks for a fault by properties of a message and lives through it.
/* conformance: mqtt.md 12, 46 */
'use strict';
const assert = require('node:assert');
const fs = require('node:fs');
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { withHub } = require('./hub');

function fault(type, delay, duration) {
  const message = new Message('fault');
  message.properties.add('AzIoTHub_FaultOperationType', type);
  message.properties.add('AzIoTHub_FaultOperationCloseReason', 'byebye');
  message.properties.add('AzIoTHub_FaultOperationDelayInSecs', String(delay));
  message.properties.add('AzIoTHub_FaultOperationDurationInSecs', String(duration));
  return message;
}

const seconds = (since) => (Date.now() - since) / 1000;

// The connection goes and cannot come back for a while; the application only sees a slow message.
async function disconnected(hub, type) {
  const client = Client.fromConnectionString(hub.json('device', 'add', type).connectionString, Mqtt);
  await client.setOptions({ ca: hub.ca });
  await client.open();
  const connections = () => hub.text().split('\n').filter((line) => / connected/.test(line) && line.includes(`device=${type} `)).length;
  const asked = Date.now();
  await client.sendEvent(fault(type, 1, 2)); // acknowledged before it happens
  const numbers = [];
  while (connections() < 2) { // across the fault
    numbers.push(String(numbers.length));
    await client.sendEvent(new Message(numbers.at(-1)));
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.ok(seconds(asked) > 2.9, `${type}: back after ${seconds(asked)} s`);
  const told = hub.cli('doctor', type);
  assert.ok(told.includes('fault-injected'), told);
  await client.close();
  return numbers;
}

// Messages are not acknowledged for a while; nothing is lost and the connection stays.
async function throttled(hub) {
  const client = Client.fromConnectionString(hub.json('device', 'add', 'slow').connectionString, Mqtt);
  await client.setOptions({ ca: hub.ca });
  await client.open();
  let dropped = false;
  client.on('disconnect', () => { dropped = true; });
  await client.sendEvent(fault('InvokeThrottling', 0, 3));
  const asked = Date.now();
  const sent = [];
  for (let took = 0; took < 1.5;) { // one of the first has to wait for what is left of the three seconds
    const started = Date.now();
    sent.push(`after ${sent.length}`);
    await client.sendEvent(new Message(sent.at(-1)));
    took = seconds(started);
    assert.ok(seconds(asked) < 30, 'never held up');
  }
  assert.ok(!dropped);
  await client.close();
  return sent;
}

withHub(async (hub) => {
  const config = `${hub.dir}/nave.yaml`;
  fs.writeFileSync(config, 'testing:\n  fault_injection: true\n');
  await hub.kill('SIGTERM');
  hub.options = ['--config', config];
  await hub.start();
  const [killed, ended, slow] = await Promise.all([disconnected(hub, 'KillTcp'), disconnected(hub, 'ShutDownMqtt'), throttled(hub)]);
  const events = hub.allEvents();
  const of = (id) => events.filter((event) => event.deviceId === id).map((event) => event.body);
  assert.deepStrictEqual([...new Set(of('KillTcp'))], ['fault', ...killed]);
  assert.deepStrictEqual([...new Set(of('ShutDownMqtt'))], ['fault', ...ended]);
  assert.deepStrictEqual(of('slow'), ['fault', ...slow]);
});
