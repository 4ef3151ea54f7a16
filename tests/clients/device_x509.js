// azure-iot-device with a self-signed certificate, matched by its thumbprint; another certificate is refused.
/* conformance: mqtt.md 7, 9 */
'use strict';
const assert = require('node:assert');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { X509Certificate } = require('node:crypto');
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
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
  const good = makeCertificate(hub.dir, 'x1');
  const other = makeCertificate(hub.dir, 'x1-other');
  const x509 = new X509Certificate(good.cert);
  for (const [id, thumbprint] of [['x1', x509.fingerprint256], ['x1sha1', x509.fingerprint]]) {
    hub.cli('device', 'add', id, '--auth', 'x509', '--thumbprint', thumbprint.replace(/:/g, ''));
    const client = Client.fromConnectionString(`HostName=localhost;DeviceId=${id};x509=true`, Mqtt);
    await client.setOptions({ ca, cert: good.cert, key: good.key });
    await client.open();
    await client.sendEvent(new Message('by certificate ' + id));
    await client.close();
  }
  const events = hub.events(2);
  for (const event of events) {
    assert.strictEqual(event.body, 'by certificate ' + event.deviceId);
    assert.strictEqual(JSON.parse(event.systemProperties['iothub-connection-auth-method']).type, 'x509');
  }

  const thief = Client.fromConnectionString('HostName=localhost;DeviceId=x1;x509=true', Mqtt);
  await thief.setOptions({ ca, cert: other.cert, key: other.key });
  await assert.rejects(thief.open(), { name: 'UnauthorizedError' });
});
