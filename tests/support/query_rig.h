/** What the tests of queries share: a fleet on the real stores, and questions to it. */
#ifndef NV_TESTS_QUERY_RIG_H
#define NV_TESTS_QUERY_RIG_H

#include "core/query.h"
#include "support/real_core.h"

/** Answers of the hub that must be a success end the test when they are not. Thread: the one of the test. */
void rig_device(real_core *core, const char *device, const char *module);
void rig_delete(real_core *core, const char *device, const char *module);
/** PATCH of a service: a twin. */
void rig_patch(real_core *core, const char *device, const char *module, const char *json);
/** The reported section of the device. */
void rig_report(real_core *core, const char *device, const char *module, const char *json);

/** One page; the caller frees it. */
typedef struct rig_page {
    nv_hub_error error;
    char detail[200];
    nv_query_item item;
    char *rows; /* text of the array */
    char *next; /* "" on the last page */
} rig_page;

rig_page rig_query_page(real_core *core, const char *text, uint32_t page, const char *continuation);
void rig_page_free(rig_page *page);
/** All pages in one array, of pages of @p page rows; must succeed. The caller frees it. */
char *rig_query(real_core *core, const char *text, uint32_t page);
/** "a b d1/m1": the ids of rows that have deviceId and perhaps moduleId, in their order. */
void rig_ids(const char *rows, char *out, size_t size);

#endif
