// A short-lived SAS token: the hub closes the connection when it expires, a renewed one goes on in the same session.
/* conformance: mqtt.md 43 */
'use strict';
const assert = require('node:assert');
const { Client, Message, SharedAccessSignature } = require('azure-iot-device');
const { ConnectionString, NoRetry } = require('azure-iot-common');
const { Mqtt } = require('azure-iot-device-mqtt');
const { withHub } = require('./hub');

function token(text, seconds) {
  const c = ConnectionString.parse(text);
  const expiry = Math.floor(Date.now() / 1000) + seconds;
  return SharedAccessSignature.create(c.HostName, c.DeviceId, c.SharedAccessKey, expiry).toString();
}

const expiryOf = (text) => Number(/[?& ]se=(\d+)/.exec(text)[1]) * 1000;

// Tokens made by the application: renewed in time, then not renewed.
async function byHand(hub) {
  const { connectionString } = hub.json('device', 'add', 'd1');
  const client = Client.fromSharedAccessSignature(token(connectionString, 30), Mqtt);
  // With its own policy the SDK would retry in silence, and tell nobody that the connection is gone.
  client.setRetryPolicy(new NoRetry());
  await client.setOptions({ ca: hub.ca });
  await client.open();
  await client.sendEvent(new Message('with the first token'));

  // Renewal in time: no gap for the application.
  const renewed = new Promise((resolve) => client.once('_sharedAccessSignatureUpdated', resolve));
  const second = token(connectionString, 12);
  client.updateSharedAccessSignature(second);
  await renewed;
  await client.sendEvent(new Message('with the second token'));

  // No renewal: the hub must close at the expiry, not before, and the SDK says so.
  await new Promise((resolve) => client.once('disconnect', resolve));
  const early = expiryOf(second) - Date.now();
  assert.ok(early < 100, `closed ${early} ms before the expiry`);
  await assert.rejects(client.sendEvent(new Message('with an expired token')), { name: 'UnauthorizedError' });

  const again = Client.fromSharedAccessSignature(token(connectionString, 3600), Mqtt);
  await again.setOptions({ ca: hub.ca });
  await again.open();
  await again.sendEvent(new Message('with the third token'));
  await again.close();
}

// The SDK makes its tokens from the key and renews them by itself, each time with a new connection.
async function byItself(hub) {
  const { connectionString } = hub.json('device', 'add', 'd2');
  const client = Client.fromConnectionString(connectionString, Mqtt);
  await client.setOptions({ ca: hub.ca, tokenRenewal: { tokenValidTimeInSeconds: 15, tokenRenewalMarginInSeconds: 11 } });
  await client.open();
  const connections = () => hub.text().split('\n').filter((line) => / connected.* device=d2 /.test(line)).length;
  let sent = 0;
  while (connections() < 5) { // the first and four renewals, longer than any of the tokens lives
    await client.sendEvent(new Message(`renewing ${sent}`));
    sent++;
    await new Promise((resolve) => setTimeout(resolve, 10)); // a device's pace
  }
  await client.close();
  return sent;
}

withHub(async (hub) => {
  const [, sent] = await Promise.all([byHand(hub), byItself(hub)]);
  const events = hub.allEvents();
  const of = (id) => events.filter((event) => event.deviceId === id).map((event) => event.body);
  assert.deepStrictEqual(of('d1'), ['with the first token', 'with the second token', 'with the third token']);
  // Nothing lost, nothing out of order; what was in flight when the connection changed may be there twice.
  const once = of('d2').filter((body, i, all) => all.indexOf(body) === i);
  assert.deepStrictEqual(once, Array.from({ length: sent }, (_, i) => `renewing ${i}`));
});
