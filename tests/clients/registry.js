// azure-iothub's Registry, unmodified: identities of devices and modules, bulk, statistics, and its errors.
// They are told by name: azure-iothub brings an azure-iot-common of its own, so the classes are not those of the device SDK.
/* conformance: http-hub.md 3, 7, 8, 12, 15, 16, 20 */
'use strict';
const assert = require('node:assert');
const { Registry } = require('azure-iothub');
const { withHubAgain } = require('./hub');

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
  await assert.rejects(registry.create({ deviceId: 'd1' }), { name: 'DeviceAlreadyExistsError' });
  await assert.rejects(registry.get('nobody'), { name: 'DeviceNotFoundError' });

  const disabled = body(await registry.update({ ...created, status: 'disabled', statusReason: 'test' }));
  assert.strictEqual(disabled.status, 'disabled');
  assert.strictEqual(disabled.generationId, created.generationId);
  assert.notStrictEqual(disabled.etag, created.etag);
  // update() always forces (If-Match: *); only the bulk form can mean the version that was read.
  await assert.rejects(registry.updateDevices([created], false), (err) => {
    const { errors: [problem] } = JSON.parse(err.responseBody);
    return problem.deviceId === 'd1' && problem.errorCode === 'PreconditionFailed';
  });
  const shownDevice = body(await registry.get('d1'));
  assert.strictEqual(shownDevice.statusReason, 'test');

  for (const id of ["a%b", "a#b", "a'b", 'a*b', 'A-z.:+_?!(),=@;$']) {
    assert.strictEqual(body(await registry.create({ deviceId: id })).deviceId, id);
    assert.strictEqual(body(await registry.get(id)).deviceId, id);
  }

  const bulk = body(await registry.addDevices([{ deviceId: 'b1' }, { deviceId: 'b2' }]));
  assert.strictEqual(bulk.isSuccessful, true);
  await assert.rejects(registry.addDevices([{ deviceId: 'b1' }, { deviceId: 'b3' }]), (err) => {
    const { isSuccessful, errors } = JSON.parse(err.responseBody);
    return err.response.statusCode === 400 && !isSuccessful && errors.length === 1 && errors[0].deviceId === 'b1' &&
      errors[0].errorCode === 'DeviceAlreadyExists';
  });
  const listed = body(await registry.list()).map((device) => device.deviceId);
  for (const id of ['d1', 'b1', 'b2']) {
    assert.ok(listed.includes(id), `${id} is not in the list`);
  }
  const statistics = body(await registry.getRegistryStatistics());
  assert.strictEqual(statistics.totalDeviceCount, listed.length);
  assert.strictEqual(statistics.disabledDeviceCount, 1);
  const gone = body(await registry.removeDevices([{ deviceId: 'b1' }, { deviceId: 'b2' }], true));
  assert.strictEqual(gone.isSuccessful, true);

  // Modules of a disabled device: under SAS the service answers 401.
  await assert.rejects(registry.addModule({ deviceId: 'd1', moduleId: 'm1' }), { name: 'UnauthorizedError' });
  await registry.update({ ...shownDevice, status: 'enabled' });
  const module = body(await registry.addModule({ deviceId: 'd1', moduleId: 'm1' }));
  assert.strictEqual(module.moduleId, 'm1');
  assert.strictEqual(module.authentication.symmetricKey.primaryKey.length, 44);
  const modules = body(await registry.getModulesOnDevice('d1'));
  assert.deepStrictEqual(modules.map((m) => m.moduleId), ['m1']);
  await registry.updateModule({ ...module, managedBy: 'me' });
  assert.strictEqual(body(await registry.getModule('d1', 'm1')).managedBy, 'me');
  await assert.rejects(registry.updateModule({ ...module, managedBy: 'a stale copy' }), { name: 'InvalidEtagError' });
  await registry.updateModule({ ...module, managedBy: 'forced' }, true);
  assert.strictEqual(body(await registry.getModule('d1', 'm1')).managedBy, 'forced');
  await registry.removeModule('d1', 'm1');
  await assert.rejects(registry.getModule('d1', 'm1'), (err) => err.response.statusCode === 404);

  await registry.delete('d1');
  await assert.rejects(registry.get('d1'), { name: 'DeviceNotFoundError' });
  const again = body(await registry.create({ deviceId: 'd1' }));
  assert.notStrictEqual(again.generationId, created.generationId);

  // A policy without the right, and one that does not exist.
  const reader = shown.policies.registryRead.primaryKey;
  const asReader = Registry.fromConnectionString(
    `HostName=${shown.hostName};SharedAccessKeyName=registryRead;SharedAccessKey=${reader}`);
  assert.strictEqual(body(await asReader.get('d1')).deviceId, 'd1');
  await assert.rejects(asReader.create({ deviceId: 'no' }), { name: 'UnauthorizedError' });
  const asNobody = Registry.fromConnectionString(
    `HostName=${shown.hostName};SharedAccessKeyName=nobody;SharedAccessKey=${reader}`);
  await assert.rejects(asNobody.get('d1'), { name: 'UnauthorizedError' });
}

withHubAgain(__filename, test);
