// What the tests of reconnecting share: a device or module of azure-iot-device with all it can do, over any transport.
'use strict';
const assert = require('node:assert');
const { once } = require('node:events');
const { Client, ModuleClient } = require('azure-iot-device');

const TIMEOUT_MS = 90000; // the SDK waits up to ten seconds between attempts to connect

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing after ${TIMEOUT_MS / 1000} s`)), TIMEOUT_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// One device or module, and the service's view of it.
class Peer {
  constructor(hub, transport, id, module) {
    Object.assign(this, { hub, transport, id, module, desired: [], messages: [] });
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
    // A copy: the first one is the SDK's own object, which goes on changing.
    this.twin.on('properties.desired', (delta) => {
      this.desired.push(structuredClone(delta));
      this.client.emit('desired'); // a new listener of the twin is called at once with what is there: nothing to wait with
    });
    await this.client.getTwin(); // subscriptions are sent one after the other: this answer is behind them
  }

  async setDesired(value) {
    await this.hub.ask('twin', 'patch', this.id, JSON.stringify({ properties: { desired: { value } } }), ...this.where);
  }

  async sawDesired(value) {
    while (!this.desired.some((delta) => delta.value === value)) {
      await within(once(this.client, 'desired'), `${this.id}: desired value ${value}`);
    }
  }

  // What was seen of the desired properties never went back.
  checkVersions() {
    const versions = this.desired.map((delta) => delta.$version).filter((v) => v);
    assert.deepStrictEqual(versions, [...versions].sort((a, b) => a - b), 'desired versions went back');
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
}

const all = (peers, work) => Promise.all(peers.map(work));

// Two devices, each with a module, over TCP and over WebSocket, connected.
async function openPeers(hub, Kind, tcp, websocket) {
  const devices = [new Kind(hub, tcp, 'd1'), new Kind(hub, websocket, 'd2')];
  const peers = [...devices, new Kind(hub, tcp, 'd1', 'm1'), new Kind(hub, websocket, 'd2', 'm1')];
  for (const peer of peers) {
    await peer.open();
  }
  return { devices, peers };
}

// Kills the hub and starts it again, with messages to the devices before, in the middle and after; the desired value is 2 then.
async function restart(hub, devices, peers) {
  const sending = devices.map((device) => hub.ask('send', device.id, 'in the middle').then(() => true, () => false));
  await hub.kill('SIGKILL');
  await hub.start();
  const accepted = await Promise.all(sending);
  await all(devices, (device) => hub.ask('send', device.id, 'while it was away'));
  await all(peers, (peer) => peer.setDesired(2));
  return accepted;
}

// Nobody subscribes again: the SDK or the kept session does. What was accepted comes.
async function checkRestarted(devices, peers, accepted) {
  await all(peers, async (peer) => {
    await peer.call('after the restart'); // waits for it to be back
    await peer.setDesired(3);
    await peer.sawDesired(3);
  });
  await all(devices, async (device, i) => {
    await device.sawMessage('while it was away');
    if (accepted[i]) {
      await device.sawMessage('in the middle');
    }
  });
}

module.exports = { Peer, within, all, openPeers, restart, checkRestarted };
