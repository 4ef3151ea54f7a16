/**
 * How the rows of a query are found: by their ids, by a tag, or by looking at all of them. Whatever the way, each row
 * is checked against the whole condition afterwards. Internal to core/query*.c.
 */
#ifndef NV_CORE_QUERY_PLAN_H
#define NV_CORE_QUERY_PLAN_H

#include "core/identity.h"
#include "core/query_tree.h"
#include "core/twin_index.h"

typedef enum nv_plan_kind {
    NV_PLAN_SCAN,   /* all devices or modules */
    NV_PLAN_IDS,    /* these devices, or their modules */
    NV_PLAN_MODULE, /* the modules of one name */
    NV_PLAN_TAG,    /* those found by a tag */
    NV_PLAN_PREFIX  /* devices whose ids begin alike, or their modules */
} nv_plan_kind;

typedef struct nv_query_plan {
    nv_plan_kind kind;
    bool modules;
    nv_span *ids; /* IDS: in byte order, each once */
    uint32_t id_count;
    nv_span module_id; /* MODULE */
    nv_span prefix;    /* PREFIX: 1 to NV_ID_MAX characters that an id can have */
    uint8_t tag_path[NV_TWIN_INDEX_PATH_MAX];
    size_t tag_path_len;
    uint8_t tag_value[NV_TWIN_INDEX_VALUE_MAX];
    size_t tag_value_len;
} nv_query_plan;

/**
 * The largest text in front of all ids that begin with the prefix, behind which no other id stands.
 * @return its length
 */
size_t nv_query_plan_before(const nv_query_plan *plan, uint8_t out[NV_ID_MAX]);

/** @param arena  holds what the plan points at beyond the tree */
void nv_query_plan_make(nv_query_plan *plan, const nv_query_tree *tree, nv_arena *arena);

#endif
