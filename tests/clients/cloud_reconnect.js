// The hub is killed in the middle of twins, methods and messages and started again: azure-iot-device goes on by itself,
// for devices and modules, over MQTT and over WebSocket, and what was acknowledged is there.
/* conformance: mqtt.md 12, 30, 31, 32, 35, 36, 37, 38 */
'use strict';
const assert = require('node:assert');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { withHub } = require('./hub');
const { Peer, all, openPeers, restart, checkRestarted } = require('./reconnect_peer');

class Reporter extends Peer {
  // True when the hub acknowledged it.
  report(value) {
    return new Promise((resolve) => {
      this.twin.properties.reported.update({ value }, (err) => resolve(!err));
    });
  }

  async reported() {
    return JSON.parse(await this.hub.ask('twin', 'get', this.id, '-o', 'json', ...this.where)).properties.reported;
  }
}

withHub(async (hub) => {
  const { devices, peers } = await openPeers(hub, Reporter, Mqtt, MqttWs);

  // All of it, before anything goes wrong.
  await all(peers, async (peer) => {
    await peer.setDesired(1);
    await peer.sawDesired(1);
    assert.ok(await peer.report(1));
    assert.strictEqual((await peer.reported()).value, 1);
    await peer.call({ a: [1, 2.5, null] });
    await peer.call(null);
  });
  await all(devices, async (device) => {
    await hub.ask('send', device.id, 'before');
    await device.sawMessage('before');
  });

  // Reports are under way, a call waits for its answer, a message is on its way: the hub is gone.
  const acknowledged = peers.map(() => 1);
  const late = peers.map(() => new Set()); // not answered in time: the SDK may send it again behind a newer one
  let stop = false;
  const reporting = peers.map(async (peer, i) => {
    for (let value = 2; !stop; value++) {
      const outcome = await Promise.race([peer.report(value), new Promise((resolve) => setTimeout(resolve, 2000, false))]);
      acknowledged[i] = outcome ? value : acknowledged[i];
      if (!outcome) {
        late[i].add(value);
      }
    }
  });
  while (acknowledged.some((value) => value < 3)) {
    await new Promise((resolve) => setTimeout(resolve, 20)); // some reports; what each has told has no other event
  }
  const accepted = await restart(hub, devices, peers);
  await checkRestarted(devices, peers, accepted);
  stop = true;
  await Promise.all(reporting);
  await all(peers, async (peer) => {
    const i = peers.indexOf(peer);
    assert.ok(acknowledged[i] > 1, 'some report was acknowledged');
    const { value } = await peer.reported();
    assert.ok(value >= acknowledged[i] || late[i].has(value), `${acknowledged[i]} was acknowledged and is missing: ${value}`);
    peer.checkVersions();
    assert.ok(await peer.report(-1));
    const last = (await peer.reported()).value;
    assert.ok(last === -1 || late[i].has(last), `-1 was acknowledged and is missing: ${last}`);
  });
  assert.ok(devices.every((device) => device.messages[0] === 'before'));
  await all(peers, (peer) => peer.client.close());
});
