// azure-iothub's Registry, unmodified: identities of devices and modules, bulk, statistics, and its error classes.
/* conformance: http-hub.md 3, 7, 8, 9, 10, 11, 12, 14, 15, 16, 18, 20, 40 */
'use strict';
const assert = require('node:assert');
const { spawn } = require('node:child_process');
const { errors } = require('azure-iot-common');
const { Registry } = require('azure-iothub');
const { withHub } = require('./hub');

async function test(shown) {
  const registry = Registry.fromConnectionString(shown.serviceConnectionString);
  const body = (response) => response.responseBody;

  const created = body(await registry.create({ deviceId: 'd1' }));
  assert.strictEqual(created.deviceId, 'd1');
  assert.strictEqual(created.status, 'enabled');
  assert.strictEqual(created.authentication.type, 'sas');
  assert.strictEqual(created.authentication.symmetricKey.primaryKey.length, 44);
  assert.notStrictEqual(created.authentication.symmetricKey.primaryKey,
    created.authentication.symmetricKey.secondaryKey);
  await assert.rejects(registry.create({ deviceId: 'd1' }), errors.DeviceAlreadyExistsError);
  await assert.rejects(registry.get('nobody'), errors.DeviceNotFoundError);

  const disabled = body(await registry.update({ ...created, status: 'disabled', statusReason: 'test' }));
  assert.strictEqual(disabled.status, 'disabled');
  assert.strictEqual(disabled.generationId, created.generationId);
  assert.notStrictEqual(disabled.etag, created.etag);
  await assert.rejects(registry.update({ ...created, forceUpdate: false }, false), errors.InvalidEtagError);
  const shownDevice = body(await registry.get('d1'));
  assert.strictEqual(shownDevice.statusReason, 'test');

  for (const id of ["a%b", "a#b", "a'b", 'a*b', 'A-z.:+_?!(),=@;$']) {
    assert.strictEqual(body(await registry.create({ deviceId: id })).deviceId, id);
    assert.strictEqual(body(await registry.get(id)).deviceId, id);
  }

  const bulk = body(await registry.addDevices([{ deviceId: 'b1' }, { deviceId: 'b2' }]));
  assert.strictEqual(bulk.isSuccessful, true);
  const listed = body(await registry.list()).map((device) => device.deviceId);
  for (const id of ['d1', 'b1', 'b2']) {
    assert.ok(listed.includes(id), `${id} is not in the list`);
  }
  const statistics = body(await registry.getRegistryStatistics());
  assert.strictEqual(statistics.totalDeviceCount, listed.length);
  assert.strictEqual(statistics.disabledDeviceCount, 1);
  const service = body(await registry.getServiceStatistics());
  assert.strictEqual(service.connectedDeviceCount, 0);
  const gone = body(await registry.removeDevices([{ deviceId: 'b1' }, { deviceId: 'b2' }], true));
  assert.strictEqual(gone.isSuccessful, true);

  const module = body(await registry.addModule({ deviceId: 'd1', moduleId: 'm1' }));
  assert.strictEqual(module.moduleId, 'm1');
  assert.strictEqual(module.authentication.symmetricKey.primaryKey.length, 44);
  const modules = body(await registry.getModulesOnDevice('d1'));
  assert.deepStrictEqual(modules.map((m) => m.moduleId), ['m1']);
  await registry.updateModule({ ...body(await registry.getModule('d1', 'm1')), managedBy: 'me' });
  assert.strictEqual(body(await registry.getModule('d1', 'm1')).managedBy, 'me');
  await registry.removeModule('d1', 'm1');
  await assert.rejects(registry.getModule('d1', 'm1'), (err) => err instanceof Error && err.response.statusCode === 404);

  await registry.delete('d1');
  await assert.rejects(registry.get('d1'), errors.DeviceNotFoundError);
  const again = body(await registry.create({ deviceId: 'd1' }));
  assert.notStrictEqual(again.generationId, created.generationId);

  // A policy without the right, and one that does not exist.
  const reader = shown.policies.registryRead.primaryKey;
  const asReader = Registry.fromConnectionString(
    `HostName=${shown.hostName};SharedAccessKeyName=registryRead;SharedAccessKey=${reader}`);
  assert.strictEqual(body(await asReader.get('d1')).deviceId, 'd1');
  await assert.rejects(asReader.create({ deviceId: 'no' }), errors.UnauthorizedError);
  const asNobody = Registry.fromConnectionString(
    `HostName=${shown.hostName};SharedAccessKeyName=nobody;SharedAccessKey=${reader}`);
  await assert.rejects(asNobody.get('d1'), errors.UnauthorizedError);
}

// The service SDK takes its roots from NODE_EXTRA_CA_CERTS only, which Node reads at its start: a second process runs the test.
if (process.env.NAVE_HUB) {
  test(JSON.parse(process.env.NAVE_HUB));
} else {
  withHub(async (hub) => {
    const shown = hub.json('hub', 'show');
    const env = { ...process.env, NODE_EXTRA_CA_CERTS: shown.caFile, NAVE_HUB: JSON.stringify(shown) };
    const child = spawn(process.execPath, [__filename], { env, stdio: 'inherit' });
    const code = await new Promise((resolve) => child.once('exit', resolve));
    assert.strictEqual(code, 0);
  });
}
