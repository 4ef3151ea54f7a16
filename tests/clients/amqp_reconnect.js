// The hub is killed and started again under devices over AMQP that do everything: nothing acknowledged is lost, and without
// the application's doing the subscriptions are there again.
/* conformance: amqp.md 33, 34, 35, 36, 37 */
'use strict';
const assert = require('node:assert');
const { Message } = require('azure-iot-device');
const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
const { withHub } = require('./hub');
const { Peer, within, all, openPeers, restart, checkRestarted } = require('./reconnect_peer');

class Sender extends Peer {
  sent = [];

  // Sends until told to stop; keeps what was acknowledged. The SDK sends again by itself what a lost connection left open.
  async sendUntil(stop) {
    const send = this.module ? (m) => this.client.sendOutputEvent('out', m) : (m) => this.client.sendEvent(m);
    for (let n = 0; !stop(); n++) {
      await within(send(new Message(`${n}`)), `${this.id}: acknowledgement of ${n}`);
      this.sent.push(String(n));
      await new Promise((resolve) => setTimeout(resolve, 2)); // a device's pace
    }
  }
}

withHub(async (hub) => {
  const { devices, peers } = await openPeers(hub, Sender, Amqp, AmqpWs);
  await all(peers, async (peer) => {
    await peer.setDesired(1);
    await peer.sawDesired(1);
    await peer.call({ a: [1, 2.5, null] });
  });
  await all(devices, async (device) => {
    await hub.ask('send', device.id, 'before');
    await device.sawMessage('before');
  });

  let stop = false;
  const sending = all(peers, (peer) => peer.sendUntil(() => stop));
  while (!peers.every((peer) => peer.sent.length > 20)) {
    await new Promise((resolve) => setTimeout(resolve, 5)); // what each has sent has no other event
  }
  const accepted = await restart(hub, devices, peers);
  await checkRestarted(devices, peers, accepted);
  stop = true;
  await sending;

  const events = hub.allEvents();
  for (const peer of peers) {
    const stored = events.filter((e) => e.deviceId === peer.id && e.moduleId === peer.module).map((e) => e.body);
    // What was in flight may be there twice; order and completeness are not touched by that.
    assert.deepStrictEqual(stored.filter((body, i) => stored.indexOf(body) === i), peer.sent, `${peer.id} ${peer.module}`);
    peer.checkVersions();
  }
  await all(peers, (peer) => peer.client.close());
});
