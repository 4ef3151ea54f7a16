// A short-lived SAS token: the hub closes the connection when it expires, a renewed one goes on in the same session.
/* conformance: mqtt.md 43 */
'use strict';
const assert = require('node:assert');
const { Client, Message, SharedAccessSignature } = require('azure-iot-device');
const { ConnectionString } = require('azure-iot-common');
const { Mqtt } = require('azure-iot-device-mqtt');
const { withHub } = require('./hub');

function token(text, seconds) {
  const c = ConnectionString.parse(text);
  const expiry = Math.floor(Date.now() / 1000) + seconds;
  return SharedAccessSignature.create(c.HostName, c.DeviceId, c.SharedAccessKey, expiry).toString();
}

withHub(async (hub) => {
  const { connectionString } = hub.json('device', 'add', 'd1');
  const client = Client.fromSharedAccessSignature(token(connectionString, 4), Mqtt);
  await client.setOptions({ ca: hub.ca });
  await client.open();
  await client.sendEvent(new Message('with the first token'));

  // Renewal in time: no gap for the application.
  await client.updateSharedAccessSignature(token(connectionString, 6));
  await client.sendEvent(new Message('with the second token'));

  // No renewal: the hub must close at the expiry, and the SDK says so.
  const closed = new Promise((resolve) => client.on('disconnect', resolve));
  const started = Date.now();
  await closed;
  const waited = (Date.now() - started) / 1000;
  assert.ok(waited < 12, `closed ${waited} s later, the token was valid for 6`);
  assert.deepStrictEqual(hub.events(2).map((event) => event.body), ['with the first token', 'with the second token']);

  const again = Client.fromSharedAccessSignature(token(connectionString, 60), Mqtt);
  await again.setOptions({ ca: hub.ca });
  await again.open();
  await again.sendEvent(new Message('with the third token'));
  assert.strictEqual(hub.events(3)[2].body, 'with the third token');
  await again.close();
});
