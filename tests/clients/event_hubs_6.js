// The same with version 6 of @azure/event-hubs, which needs a newer Node than Debian 12 has.
/* conformance: amqp.md 45, 46, 48, 49, 50, 51, 52 */
'use strict';
if (Number(process.versions.node.split('.')[0]) < 20) {
  console.log('skipped: it needs Node 20');
  process.exit(77);
}
process.env.EVENT_HUBS = 'azure-event-hubs-6';
require('./event_hubs');
