// azure-iothub unmodified, as a back end uses it: twins of devices and modules, direct methods answered by azure-iot-device,
// queries with paging, digital twins and their commands.
// Errors are told by name: azure-iothub brings an azure-iot-common of its own, so the classes are not those of the device SDK.
/* conformance: http-hub.md 21, 22, 23, 24, 25, 26, 27, 28 */
/* conformance: semantics.md 1, 2, 3, 4, 9, 20 */
'use strict';
const assert = require('node:assert');
const { once } = require('node:events');
const { Client: Service, DigitalTwinClient, IoTHubTokenCredentials, Registry } = require('azure-iothub');
const { Client, ModuleClient } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { withHubAgain } = require('./hub');

const body = (response) => response.responseBody;

function deviceString(shown, identity) {
  const module = identity.moduleId ? `;ModuleId=${identity.moduleId}` : '';
  return `HostName=${shown.hostName};DeviceId=${identity.deviceId}${module};` +
    `SharedAccessKey=${identity.authentication.symmetricKey.primaryKey}`;
}

async function connect(shown, identity, options = {}) {
  const make = identity.moduleId ? ModuleClient : Client;
  const client = make.fromConnectionString(deviceString(shown, identity), Mqtt);
  await client.setOptions(options);
  await client.open();
  return client;
}

// Subscriptions are sent one after the other: what is answered now is behind all that were asked for.
async function subscribed(client) {
  await client.getTwin();
}

// A method answers with what it got; `fail` with a status of its own, `silent` never.
async function answerMethods(client, names) {
  for (const name of names) {
    client.onDeviceMethod(name, (request, response) => {
      if (name !== 'silent') {
        const status = name === 'fail' ? 500 : 200;
        response.send(status, { method: request.methodName, got: request.payload }, (err) => assert.ifError(err));
      }
    });
  }
  await subscribed(client);
}

async function twins(_shown, registry) {
  await registry.create({ deviceId: 'd1' });
  const fresh = body(await registry.getTwin('d1'));
  assert.strictEqual(fresh.deviceId, 'd1');
  assert.strictEqual(fresh.version, 2);
  assert.strictEqual(fresh.etag, 'AAAAAAAAAAE=');
  assert.strictEqual(fresh.properties.desired.$version, 1);

  const patched = body(await registry.updateTwin('d1',
    { tags: { site: 'n' }, properties: { desired: { t: 21.7, list: [1, 2], a: { b: 1 } } } }, fresh.etag));
  assert.strictEqual(patched.version, 3);
  assert.strictEqual(patched.etag, 'AAAAAAAAAAI=');
  assert.strictEqual(patched.properties.desired.$version, 2);
  assert.strictEqual(patched.properties.desired.$metadata.t.$lastUpdatedVersion, 2);
  await assert.rejects(registry.updateTwin('d1', { tags: { site: 's' } }, fresh.etag), { name: 'InvalidEtagError' });

  // Twin.update(): the object that was read goes back with what is changed; its etag is the precondition.
  const updated = await fresh.update({ tags: { more: 1 } }).then(() => null, (err) => err);
  assert.strictEqual(updated.name, 'InvalidEtagError');
  const twin = body(await registry.getTwin('d1'));
  await twin.update({ properties: { desired: { t: null, a: { c: 2 } } } });
  assert.deepStrictEqual(twin.properties.desired.a, { b: 1, c: 2 });
  assert.strictEqual(twin.properties.desired.t, undefined);
  assert.deepStrictEqual(twin.tags, { site: 'n' });

  // The whole of what was read is a valid patch.
  const again = body(await registry.updateTwin('d1', JSON.parse(JSON.stringify(twin)), '*'));
  assert.deepStrictEqual(again.properties.desired.list, [1, 2]);
  await assert.rejects(registry.updateTwin('d1', { tags: { 'a.b': 1 } }, '*'), { name: 'ArgumentError' });
  await assert.rejects(registry.updateTwin('d1', { tags: { long: 'x'.repeat(4097) } }, '*'), { name: 'ArgumentError' });
  await assert.rejects(registry.getTwin('nobody'), { name: 'DeviceNotFoundError' });
  await assert.rejects(registry.getModuleTwin('d1', 'nobody'), { name: 'DeviceNotFoundError' });

  const etag = body(await registry.getTwin('d1'));
  await registry.update({ deviceId: 'd1', status: 'disabled' });
  const disabled = body(await registry.getTwin('d1'));
  assert.strictEqual(disabled.etag, etag.etag);
  assert.notStrictEqual(disabled.deviceEtag, etag.deviceEtag);
  assert.strictEqual(disabled.status, 'disabled');

  await registry.create({ deviceId: 'dm' });
  await registry.addModule({ deviceId: 'dm', moduleId: 'm1' });
  const module = body(await registry.updateModuleTwin('dm', 'm1', { properties: { desired: { m: 1 } } }, '*'));
  assert.strictEqual(module.moduleId, 'm1');
  assert.strictEqual(module.properties.desired.m, 1);
  assert.strictEqual(body(await registry.getTwin('dm')).version, 2);
}

// What a service writes reaches the device, what the device reports reaches the service.
async function bothSides(shown, registry) {
  const identity = body(await registry.create({ deviceId: 'both' }));
  const client = await connect(shown, identity);
  const twin = await client.getTwin();
  const changes = [];
  let heard;
  twin.on('properties.desired', (delta) => {
    changes.push(delta);
    heard?.();
  });
  await subscribed(client);
  const change = async (patch) => {
    const arrived = new Promise((resolve) => {
      heard = () => (changes.at(-1).$version > 1 ? resolve() : undefined);
    });
    await registry.updateTwin('both', { properties: { desired: patch } }, '*');
    await arrived;
    return changes.at(-1);
  };
  assert.deepStrictEqual(await change({ fan: 'on', n: 1.5 }), { fan: 'on', n: 1.5, $version: 2 });
  assert.deepStrictEqual(await change({ fan: null }), { fan: null, $version: 3 });
  await new Promise((resolve, reject) => {
    twin.properties.reported.update({ rpm: 900, a: { b: [1, 2] } }, (err) => (err ? reject(err) : resolve()));
  });
  const seen = body(await registry.getTwin('both'));
  assert.deepStrictEqual(seen.properties.reported.a, { b: [1, 2] });
  assert.strictEqual(seen.properties.reported.$version, 2);
  assert.strictEqual(seen.connectionState, 'Connected');
  await client.close();
}

async function methods(shown, registry) {
  const service = Service.fromConnectionString(shown.serviceConnectionString);
  const invoke = async (device, params, module) =>
    (module ? service.invokeDeviceMethod(device, module, params) : service.invokeDeviceMethod(device, params))
      .then((answer) => answer.result);
  const identity = body(await registry.create({ deviceId: 'called' }));
  await assert.rejects(invoke('called', { methodName: 'echo' }),
    (err) => err.response.statusCode === 404 && JSON.parse(JSON.parse(err.responseBody).Message).errorCode === 404103);
  await assert.rejects(invoke('nobody', { methodName: 'echo' }),
    (err) => err.response.statusCode === 404 && err.responseBody.includes('404001'));

  const client = await connect(shown, identity);
  await answerMethods(client, ['echo', 'fail', 'silent']);
  for (const payload of [{ a: [1, 2.5, null] }, 'text', 7, false, [], null]) {
    assert.deepStrictEqual(await invoke('called', { methodName: 'echo', payload }),
      { status: 200, payload: { method: 'echo', got: payload } });
  }
  assert.strictEqual((await invoke('called', { methodName: 'fail', payload: 1 })).status, 500);
  const many = await Promise.all(Array.from({ length: 100 }, (_, i) =>
    invoke('called', { methodName: 'echo', payload: i })));
  assert.deepStrictEqual(many.map((answer) => answer.payload.got), many.map((_, i) => i));
  await assert.rejects(invoke('called', { methodName: 'silent', responseTimeoutInSeconds: 5 }),
    { name: 'GatewayTimeoutError' });
  await assert.rejects(invoke('called', { methodName: 'echo', responseTimeoutInSeconds: 4 }), { name: 'ArgumentError' });

  const moduleIdentity = body(await registry.addModule({ deviceId: 'called', moduleId: 'm1' }));
  const module = await connect(shown, moduleIdentity);
  const asked = new Promise((resolve) => {
    module.onMethod('echo', (request, response) => response.send(201, { module: true }, resolve));
  });
  await subscribed(module);
  assert.deepStrictEqual(await invoke('called', { methodName: 'echo' }, 'm1'), { status: 201, payload: { module: true } });
  await asked;
  await module.close();

  // A caller may wait for a device that is on its way.
  await client.close();
  const waiting = invoke('called', { methodName: 'echo', payload: 1, connectTimeoutInSeconds: 30 });
  const late = await connect(shown, identity);
  await answerMethods(late, ['echo']);
  assert.strictEqual((await waiting).payload.got, 1);
  await late.close();
}

async function digitalTwins(shown, registry) {
  const digital = new DigitalTwinClient(new IoTHubTokenCredentials(shown.serviceConnectionString));
  const identity = body(await registry.create({ deviceId: 'pnp' }));
  const client = await connect(shown, identity, { modelId: 'dtmi:com:example:Thermostat;1' });
  await answerMethods(client, ['reboot', 'thermostat1*getMax']);
  const twin = await client.getTwin();
  await new Promise((resolve, reject) => {
    twin.properties.reported.update({ serial: 'S1', thermostat1: { __t: 'c', max: 25.3 } },
      (err) => (err ? reject(err) : resolve()));
  });
  const view = await digital.getDigitalTwin('pnp');
  assert.strictEqual(view.$dtId, 'pnp');
  assert.strictEqual(view.$metadata.$model, 'dtmi:com:example:Thermostat;1');
  assert.strictEqual(view.serial, 'S1');
  assert.strictEqual(view.thermostat1.max, 25.3);
  assert.ok(view.thermostat1.$metadata.max.lastUpdateTime);

  const desired = once(twin, 'properties.desired.thermostat1.target');
  await subscribed(client);
  const patch = [{ op: 'add', path: '/thermostat1/target', value: 21.5 }];
  const answer = await new Promise((resolve, reject) => {
    digital.updateDigitalTwin('pnp', patch, (err, _result, response) => (err ? reject(err) : resolve(response)));
  });
  assert.strictEqual(answer.status, 202);
  assert.ok(answer.headers.get('etag'));
  assert.ok(answer.headers.get('location').endsWith('/digitaltwins/pnp'));
  assert.strictEqual((await desired)[0], 21.5);
  const shownTwin = body(await registry.getTwin('pnp'));
  assert.deepStrictEqual(shownTwin.properties.desired.thermostat1, { __t: 'c', target: 21.5 });
  const now = await digital.getDigitalTwin('pnp');
  assert.strictEqual(now.thermostat1.$metadata.target.desiredValue, 21.5);
  assert.strictEqual(now.thermostat1.$metadata.target.desiredVersion, 2);
  await assert.rejects(digital.updateDigitalTwin('pnp', [{ op: 'add', path: '/x', value: 1 }], '"AAAAAAAAAAE="'),
    (err) => err.statusCode === 412);
  await assert.rejects(digital.getDigitalTwin('nobody'), (err) => err.statusCode === 404);

  const reboot = await digital.invokeCommand('pnp', 'reboot', { delay: 1 }, { responseTimeoutInSeconds: 30 });
  assert.strictEqual(reboot.xMsCommandStatuscode, 200);
  assert.deepStrictEqual(reboot.body, { method: 'reboot', got: { delay: 1 } });
  const max = await digital.invokeComponentCommand('pnp', 'thermostat1', 'getMax', '2020', {});
  assert.strictEqual(max.body.method, 'thermostat1*getMax');
  assert.strictEqual(max.body.got, '2020');
  await client.close();
}

async function queries(_shown, registry) {
  const ids = Array.from({ length: 250 }, (_, i) => `fleet-${String(i).padStart(3, '0')}`);
  for (let at = 0; at < ids.length; at += 100) {
    await registry.addDevices(ids.slice(at, at + 100).map((deviceId) => ({ deviceId })));
  }
  for (const deviceId of ids.slice(0, 7)) {
    await registry.updateTwin(deviceId, { tags: { site: 'north' }, properties: { desired: { rpm: 900 } } }, '*');
  }
  const all = async (text, size, next) => {
    const query = registry.createQuery(text, size);
    const pages = [];
    while (query.hasMoreResults) {
      const page = await query[next]();
      pages.push(page.result);
    }
    return pages;
  };
  const pages = await all("SELECT * FROM devices WHERE STARTSWITH(deviceId, 'fleet-')", 100, 'nextAsTwin');
  assert.deepStrictEqual(pages.map((page) => page.length), [100, 100, 50]);
  assert.deepStrictEqual(pages.flat().map((twin) => twin.deviceId).sort(), ids);
  const north = (await all("SELECT * FROM devices WHERE tags.site = 'north'", 3, 'nextAsTwin')).flat();
  assert.strictEqual(north.length, 7);
  assert.strictEqual(north[0].properties.desired.rpm, 900);
  await north[0].update({ tags: { site: 'south' } }); // rows are twins that can be written
  const [[moved]] = await all("SELECT deviceId, tags.site AS site FROM devices WHERE tags.site = 'south'", 10, 'next');
  assert.deepStrictEqual(moved, { deviceId: north[0].deviceId, site: 'south' });
  const [counts] = await all('SELECT COUNT() AS n, status FROM devices GROUP BY status', 10, 'next');
  assert.ok(counts.find((row) => row.status === 'enabled').n >= 250);
  const [[module]] = await all("SELECT * FROM devices.modules WHERE moduleId = 'm1' AND deviceId = 'dm'", 10, 'next');
  assert.strictEqual(module.properties.desired.m, 1);
  await assert.rejects(all('SELECT FROM devices', 10, 'next'),
    (err) => err.name === 'ArgumentError' && err.responseBody.includes('The query is invalid: '));
}

async function test(shown) {
  const registry = Registry.fromConnectionString(shown.serviceConnectionString);
  for (const part of [twins, queries, bothSides, methods, digitalTwins]) {
    console.log(part.name); // the last one named is where a run hangs
    await part(shown, registry);
  }
}

withHubAgain(__filename, test);
