// azure-iot-device over MQTT in WebSocket on 443: a device, a module and a device with a certificate; the hub killed and
// started again in between.
/* conformance: mqtt.md 1, 3, 9, 10 */
'use strict';
const assert = require('node:assert');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { X509Certificate } = require('node:crypto');
const { Client, ModuleClient, Message } = require('azure-iot-device');
const { MqttWs } = require('azure-iot-device-mqtt');
const { withHub } = require('./hub');

function makeCertificate(dir, name) {
  const key = path.join(dir, name + '.key');
  const cert = path.join(dir, name + '.pem');
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes',
    '-days', '2', '-subj', '/CN=' + name, '-keyout', key, '-out', cert], { stdio: 'ignore' });
  return { key: fs.readFileSync(key, 'utf8'), cert: fs.readFileSync(cert, 'utf8') };
}

withHub(async (hub) => {
  const ca = hub.ca;
  const device = hub.json('device', 'add', 'd1');
  const client = Client.fromConnectionString(device.connectionString, MqttWs);
  await client.setOptions({ ca });
  await client.open();
  const message = new Message(JSON.stringify({ t: 21.7 }));
  message.contentType = 'application/json';
  message.contentEncoding = 'utf-8';
  message.properties.add('größe', '25 %');
  await client.sendEvent(message);
  const large = Buffer.alloc(200000, 'x'); // many frames
  await client.sendEvent(new Message(large));

  const module = hub.json('module', 'add', 'd1', 'm1');
  const moduleClient = ModuleClient.fromConnectionString(module.connectionString, MqttWs);
  await moduleClient.setOptions({ ca });
  await moduleClient.open();
  await moduleClient.sendOutputEvent('out1', new Message('from a module'));

  const own = makeCertificate(hub.dir, 'x1');
  const thumbprint = new X509Certificate(own.cert).fingerprint256.replace(/:/g, '');
  hub.cli('device', 'add', 'x1', '--auth', 'x509', '--thumbprint', thumbprint);
  const x509 = Client.fromConnectionString('HostName=localhost;DeviceId=x1;x509=true', MqttWs);
  await x509.setOptions({ ca, cert: own.cert, key: own.key });
  await x509.open();
  await x509.sendEvent(new Message('by certificate'));
  await x509.close();
  const thief = makeCertificate(hub.dir, 'thief');
  const other = Client.fromConnectionString('HostName=localhost;DeviceId=x1;x509=true', MqttWs);
  await other.setOptions({ ca, cert: thief.cert, key: thief.key });
  await assert.rejects(other.open(), { name: 'UnauthorizedError' });

  const bySender = new Map(hub.events(4).map((event) => [event.moduleId || event.deviceId + event.body.length, event]));
  const [first, big] = hub.events(4).filter((e) => e.deviceId === 'd1' && !e.moduleId).sort((a, b) => a.sequence - b.sequence);
  assert.deepStrictEqual(first.body, { t: 21.7 });
  assert.strictEqual(first.properties['größe'], '25 %');
  assert.strictEqual(big.body.length, large.length);
  assert.strictEqual(bySender.get('m1').body, 'from a module');
  const certified = hub.events(4).find((event) => event.deviceId === 'x1');
  assert.strictEqual(certified.body, 'by certificate');
  assert.strictEqual(JSON.parse(certified.systemProperties['iothub-connection-auth-method']).type, 'x509');

  await hub.kill();
  await hub.start();
  await client.sendEvent(new Message('after the restart')); // it connects again by itself
  assert.ok(hub.events(5).some((event) => event.body === 'after the restart'));
  await client.close();
  await moduleClient.close();
});
