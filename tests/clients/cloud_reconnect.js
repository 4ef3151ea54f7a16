// The hub is killed in the middle of twins, methods and messages and started again: azure-iot-device goes on by itself,
// for devices and modules, over MQTT and over WebSocket, and what was acknowledged is there.
/* conformance: mqtt.md 12, 30, 31, 32, 35, 36, 37, 38 */
'use strict';
const assert = require('node:assert');
const { once } = require('node:events');
const { Client, ModuleClient } = require('azure-iot-device');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { withHub } = require('./hub');

const TIMEOUT_MS = 60000; // the SDK waits up to ten seconds between attempts to connect

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing after ${TIMEOUT_MS / 1000} s`)), TIMEOUT_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// One device or module with all it can do, and the service's view of it.
class Peer {
  constructor(hub, transport, id, module) {
    this.hub = hub;
    this.transport = transport;
    this.id = id;
    this.module = module;
    this.where = module ? ['--module', module] : [];
    this.desired = [];
    this.messages = [];
    this.calls = 0;
  }

  async open() {
    const added = this.module ? this.hub.json('module', 'add', this.id, this.module) : this.hub.json('device', 'add', this.id);
    const make = this.module ? ModuleClient : Client;
    this.client = make.fromConnectionString(added.connectionString, this.transport);
    await this.client.setOptions({ ca: this.hub.ca });
    await this.client.open();
    this.client.onDeviceMethod ? this.client.onDeviceMethod('echo', this.answer()) : this.client.onMethod('echo', this.answer());
    if (!this.module) {
      this.client.on('message', (message) => this.take(message));
    }
    this.twin = await this.client.getTwin();
    // A copy: the first one is the SDK's own object, which goes on changing.
    this.twin.on('properties.desired', (delta) => {
      this.desired.push(structuredClone(delta));
      this.client.emit('desired'); // a new listener of the twin is called at once with what is there: nothing to wait with
    });
    await this.client.getTwin(); // subscriptions are sent one after the other: this answer is behind them
  }

  answer() {
    return (request, response) => {
      this.calls++;
      response.send(200, { got: request.payload }, () => {});
    };
  }

  take(message) {
    this.messages.push(message.data.toString());
    this.client.complete(message, () => {});
    this.client.emit('taken');
  }

  async setDesired(value) {
    await this.hub.ask('twin', 'patch', this.id, JSON.stringify({ properties: { desired: { value } } }), ...this.where);
  }

  async sawDesired(value) {
    while (!this.desired.some((delta) => delta.value === value)) {
      await within(once(this.client, 'desired'), `desired value ${value}`);
    }
  }

  async call(payload) {
    const text = await this.hub.ask('method', this.id, 'echo', JSON.stringify(payload), '--connect-timeout', '60', '-o', 'json',
      ...this.where);
    assert.deepStrictEqual(JSON.parse(text), { status: 200, payload: { got: payload } });
  }

  // True when the hub acknowledged it.
  report(value) {
    return new Promise((resolve) => {
      this.twin.properties.reported.update({ value }, (err) => resolve(!err));
    });
  }

  async reported() {
    return JSON.parse(await this.hub.ask('twin', 'get', this.id, '-o', 'json', ...this.where)).properties.reported;
  }

  async sawMessage(text) {
    while (!this.messages.includes(text)) {
      await within(once(this.client, 'taken'), `message ${text}`);
    }
  }
}

async function all(peers, work) {
  await Promise.all(peers.map(work));
}

withHub(async (hub) => {
  const devices = [new Peer(hub, Mqtt, 'd1'), new Peer(hub, MqttWs, 'd2')];
  const peers = [...devices, new Peer(hub, Mqtt, 'd1', 'm1'), new Peer(hub, MqttWs, 'd2', 'm1')];
  for (const peer of peers) {
    await peer.open();
  }

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
  let stop = false;
  const reporting = peers.map(async (peer, i) => {
    for (let value = 2; !stop; value++) {
      const outcome = await Promise.race([peer.report(value), new Promise((resolve) => setTimeout(resolve, 2000, false))]);
      acknowledged[i] = outcome ? value : acknowledged[i];
    }
  });
  await new Promise((resolve) => setTimeout(resolve, 300)); // some reports
  const sending = devices.map((device) => hub.ask('send', device.id, 'in the middle').then(() => true, () => false));
  await hub.kill('SIGKILL');
  await hub.start();
  const sent = await Promise.all(sending);
  await all(devices, (device) => hub.ask('send', device.id, 'while it was away'));
  await all(peers, (peer) => peer.setDesired(2));

  // Nobody subscribes again: the kept sessions do.
  await all(peers, async (peer) => {
    await peer.call('after the restart'); // waits for it to be back
    await peer.setDesired(3);
    await peer.sawDesired(3);
  });
  await all(devices, async (device) => {
    await device.sawMessage('while it was away');
    if (sent[devices.indexOf(device)]) {
      await device.sawMessage('in the middle');
    }
  });
  stop = true;
  await Promise.all(reporting);
  await all(peers, async (peer) => {
    const i = peers.indexOf(peer);
    assert.ok(acknowledged[i] > 1, 'some report was acknowledged');
    assert.ok((await peer.reported()).value >= acknowledged[i], 'an acknowledged report is missing');
    const versions = peer.desired.map((delta) => delta.$version).filter((v) => v);
    assert.deepStrictEqual(versions, [...versions].sort((a, b) => a - b), 'desired versions went back');
    assert.ok(await peer.report(-1));
    assert.strictEqual((await peer.reported()).value, -1);
  });
  assert.ok(devices.every((device) => device.messages[0] === 'before'));
  await all(peers, (peer) => peer.client.close());
}, { timeoutS: 170 });
