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
  await client.sendEvent(fault(type, 1, 2)); // acknowledged before it happens
  const asked = Date.now();
  const numbers = [];
  for (let i = 0; seconds(asked) < 1.5; i++) { // across the moment of the fault
    numbers.push(String(i));
    await client.sendEvent(new Message(String(i)));
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.ok(seconds(asked) > 2.8, `${type}: back after ${seconds(asked)} s`);
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
  await new Promise((resolve) => setTimeout(resolve, 100)); // the delay of 0 s is over
  await client.sendEvent(new Message('after'));
  assert.ok(seconds(asked) > 2.5, `acknowledged after ${seconds(asked)} s`);
  assert.ok(!dropped);
  await client.close();
}

withHub(async (hub) => {
  const config = `${hub.dir}/nave.yaml`;
  fs.writeFileSync(config, 'testing:\n  fault_injection: true\n');
  await hub.kill('SIGTERM');
  hub.options = ['--config', config];
  await hub.start();
  const [killed, ended] = await Promise.all([disconnected(hub, 'KillTcp'), disconnected(hub, 'ShutDownMqtt'), throttled(hub)]);
  const events = hub.allEvents();
  const of = (id) => events.filter((event) => event.deviceId === id).map((event) => event.body);
  assert.deepStrictEqual([...new Set(of('KillTcp'))], ['fault', ...killed]);
  assert.deepStrictEqual([...new Set(of('ShutDownMqtt'))], ['fault', ...ended]);
  assert.deepStrictEqual(of('slow'), ['fault', 'after']);
});
