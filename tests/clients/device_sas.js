// azure-iot-device over MQTT with a symmetric key: messages with properties arrive, for a device and for a module.
/* conformance: mqtt.md 1, 3, 21, 22 */
'use strict';
const assert = require('node:assert');
const { Client, ModuleClient, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { withHub } = require('./hub');

withHub(async (hub) => {
  const ca = hub.ca;
  const device = hub.json('device', 'add', 'd1');
  const client = Client.fromConnectionString(device.connectionString, Mqtt);
  await client.setOptions({ ca, productInfo: 'Probe/1.0 (täst)' });
  await client.open();

  const message = new Message(JSON.stringify({ t: 21.7, n: 1.0 }));
  message.contentType = 'application/json';
  message.contentEncoding = 'utf-8';
  message.messageId = 'm-1';
  message.correlationId = 'c/1';
  message.properties.add('alert', 'yes & no');
  message.properties.add('größe', '25 %');
  await client.sendEvent(message);
  await client.sendEvent(new Message(Buffer.from([0, 255, 1])));
  await client.sendEvent(new Message(''));

  const module = hub.json('module', 'add', 'd1', 'm1');
  const moduleClient = ModuleClient.fromConnectionString(module.connectionString, Mqtt);
  await moduleClient.setOptions({ ca });
  await moduleClient.open();
  const output = new Message('from a module');
  output.messageId = 'm-2';
  await moduleClient.sendOutputEvent('out1', output);

  const events = hub.events(4).sort((a, b) => a.sequence - b.sequence);
  const [first, binary, empty, fromModule] = events;
  assert.strictEqual(first.deviceId, 'd1');
  assert.deepStrictEqual(first.body, { t: 21.7, n: 1.0 });
  assert.strictEqual(first.properties.alert, 'yes & no');
  assert.strictEqual(first.properties['größe'], '25 %');
  assert.strictEqual(first.systemProperties['message-id'], 'm-1');
  assert.strictEqual(first.systemProperties['correlation-id'], 'c/1');
  assert.strictEqual(first.systemProperties['content-type'], 'application/json');
  assert.strictEqual(first.systemProperties['content-encoding'], 'utf-8');
  assert.strictEqual(first.systemProperties['iothub-connection-device-id'], 'd1');
  assert.strictEqual(first.systemProperties['iothub-message-source'], 'Telemetry');
  const method = JSON.parse(first.systemProperties['iothub-connection-auth-method']);
  assert.strictEqual(method.scope, 'device');
  assert.strictEqual(method.type, 'sas');
  assert.strictEqual(Buffer.from(binary.bodyBase64, 'base64').toString('hex'), '00ff01');
  assert.strictEqual(empty.body, '');
  assert.strictEqual(fromModule.moduleId, 'm1');
  assert.strictEqual(fromModule.body, 'from a module');
  assert.strictEqual(fromModule.systemProperties['iothub-outputname'], 'out1');

  await client.close();
  await moduleClient.close();
});
