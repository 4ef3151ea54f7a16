// The hub is killed and started again under devices over AMQP that do everything: nothing acknowledged is lost, and without
// the application's doing the subscriptions are there again.
/* conformance: amqp.md 33, 34, 35, 36, 37 */
'use strict';
const assert = require('node:assert');
const { once } = require('node:events');
const { Client, ModuleClient, Message } = require('azure-iot-device');
const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
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
    Object.assign(this, { hub, transport, id, module, desired: [], messages: [], sent: [] });
    this.where = module ? ['--module', module] : [];
  }

  async open() {
    const added = this.module ? this.hub.json('module', 'add', this.id, this.module) : this.hub.json('device', 'add', this.id);
    const make = this.module ? ModuleClient : Client;
    this.client = make.fromConnectionString(added.connectionString, this.transport);
    await this.client.setOptions({ ca: this.hub.ca });
    await this.client.open();
    const answer = (request, response) => response.send(200, { got: request.payload }, () => {});
    this.client.onDeviceMethod ? this.client.onDeviceMethod('echo', answer) : this.client.onMethod('echo', answer);
    if (!this.module) {
      this.client.on('message', (message) => {
        this.messages.push(message.data.toString());
        this.client.complete(message, () => {});
        this.client.emit('taken');
      });
    }
    this.twin = await this.client.getTwin();
    this.twin.on('properties.desired', (delta) => {
      this.desired.push(structuredClone(delta));
      this.client.emit('desired'); // a new listener of the twin is called at once with what is there: nothing to wait with
    });
    await this.client.getTwin();
  }

  async setDesired(value) {
    await this.hub.ask('twin', 'patch', this.id, JSON.stringify({ properties: { desired: { value } } }), ...this.where);
  }

  async sawDesired(value) {
    while (!this.desired.some((delta) => delta.value === value)) {
      await within(once(this.client, 'desired'), `${this.id}: desired value ${value}`);
    }
  }

  async call(payload) {
    const text = await this.hub.ask('method', this.id, 'echo', JSON.stringify(payload), '--connect-timeout', '60', '-o', 'json',
      ...this.where);
    assert.deepStrictEqual(JSON.parse(text), { status: 200, payload: { got: payload } });
  }

  async sawMessage(text) {
    while (!this.messages.includes(text)) {
      await within(once(this.client, 'taken'), `${this.id}: message ${text}`);
    }
  }

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

const all = (peers, work) => Promise.all(peers.map(work));

withHub(async (hub) => {
  const devices = [new Peer(hub, Amqp, 'd1'), new Peer(hub, AmqpWs, 'd2')];
  const peers = [...devices, new Peer(hub, Amqp, 'd1', 'm1'), new Peer(hub, AmqpWs, 'd2', 'm1')];
  for (const peer of peers) {
    await peer.open();
  }
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
  const middle = devices.map((device) => hub.ask('send', device.id, 'in the middle').then(() => true, () => false));
  await hub.kill('SIGKILL');
  await hub.start();
  const accepted = await Promise.all(middle);
  await all(devices, (device) => hub.ask('send', device.id, 'while it was away'));
  await all(peers, (peer) => peer.setDesired(2));
  await all(peers, async (peer) => {
    await peer.call('after the restart'); // waits for it to be back
    await peer.setDesired(3);
    await peer.sawDesired(3);
  });
  await all(devices, async (device, i) => {
    await device.sawMessage('while it was away');
    if (accepted[devices.indexOf(device)]) {
      await device.sawMessage('in the middle');
    }
  });
  stop = true;
  await sending;

  const events = hub.allEvents();
  for (const peer of peers) {
    const stored = events.filter((e) => e.deviceId === peer.id && e.moduleId === peer.module).map((e) => e.body);
    // What was in flight may be there twice; order and completeness are not touched by that.
    assert.deepStrictEqual(stored.filter((body, i) => stored.indexOf(body) === i), peer.sent, `${peer.id} ${peer.module}`);
    const versions = peer.desired.map((delta) => delta.$version).filter((v) => v);
    assert.deepStrictEqual(versions, [...versions].sort((a, b) => a - b), 'desired versions went back');
  }
  await all(peers, (peer) => peer.client.close());
}, { timeoutS: 170 });
