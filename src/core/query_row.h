/**
 * A row of a query: one twin as its service view (semantics.md section 1.1), each property read only when an expression
 * or the answer asks for it. Internal to core/query*.c.
 */
#ifndef NV_CORE_QUERY_ROW_H
#define NV_CORE_QUERY_ROW_H

#include "core/devices.h"
#include "core/expr.h"
#include "core/registry.h"
#include "store/state.h"
#include "store/state_twin.h"

/** id, the names of its steps. Names are matched ignoring case, the longest match counts. */
#define NV_QUERY_FIELD_TABLE(X)                                                                                        \
    X(UNKNOWN, NULL, NULL, NULL)                                                                                       \
    X(DEVICE_ID, "deviceId", NULL, NULL)                                                                               \
    X(MODULE_ID, "moduleId", NULL, NULL)                                                                               \
    X(ETAG, "etag", NULL, NULL)                                                                                        \
    X(DEVICE_ETAG, "deviceEtag", NULL, NULL)                                                                           \
    X(VERSION, "version", NULL, NULL)                                                                                  \
    X(STATUS, "status", NULL, NULL)                                                                                    \
    X(STATUS_REASON, "statusReason", NULL, NULL)                                                                       \
    X(STATUS_UPDATE_TIME, "statusUpdateTime", NULL, NULL)                                                              \
    X(CONNECTION_STATE, "connectionState", NULL, NULL)                                                                 \
    X(LAST_ACTIVITY_TIME, "lastActivityTime", NULL, NULL)                                                              \
    X(C2D_COUNT, "cloudToDeviceMessageCount", NULL, NULL)                                                              \
    X(AUTHENTICATION_TYPE, "authenticationType", NULL, NULL)                                                           \
    X(THUMBPRINTS, "x509Thumbprint", NULL, NULL)                                                                       \
    X(PRIMARY_THUMBPRINT, "x509Thumbprint", "primaryThumbprint", NULL)                                                 \
    X(SECONDARY_THUMBPRINT, "x509Thumbprint", "secondaryThumbprint", NULL)                                             \
    X(CAPABILITIES, "capabilities", NULL, NULL)                                                                        \
    X(IOT_EDGE, "capabilities", "iotEdge", NULL)                                                                       \
    X(DEVICE_SCOPE, "deviceScope", NULL, NULL)                                                                         \
    X(PARENT_SCOPES, "parentScopes", NULL, NULL)                                                                       \
    X(MODEL_ID, "modelId", NULL, NULL)                                                                                 \
    X(CONFIGURATIONS, "configurations", NULL, NULL)                                                                    \
    X(TAGS, "tags", NULL, NULL)                                                                                        \
    X(PROPERTIES, "properties", NULL, NULL)                                                                            \
    X(DESIRED, "properties", "desired", NULL)                                                                          \
    X(DESIRED_VERSION, "properties", "desired", "$version")                                                            \
    X(DESIRED_METADATA, "properties", "desired", "$metadata")                                                          \
    X(REPORTED, "properties", "reported", NULL)                                                                        \
    X(REPORTED_VERSION, "properties", "reported", "$version")                                                          \
    X(REPORTED_METADATA, "properties", "reported", "$metadata")

typedef enum nv_query_field {
#define X(id, first, second, third) NV_FIELD_##id,
    NV_QUERY_FIELD_TABLE(X)
#undef X
} nv_query_field;

/** Find the field that the first steps name: binding and bound_steps. UNKNOWN: no row has it. */
void nv_query_bind(nv_expr_path *path);
/** What a column of this path is called: the last name, fields in their canonical spelling. The path is bound. */
nv_span nv_query_path_name(const nv_expr_path *path);
/** True when two bound paths lead to the same property. */
bool nv_query_same_path(const nv_expr_path *a, const nv_expr_path *b);

/** Everything lives as long as the visit of the row. */
typedef struct nv_query_row {
    nv_hub *hub; /* whom to ask for presence; NULL: as stored with the identity */
    nv_txn *txn; /* to read what the walk did not bring; NULL: it is not there */
    const nv_identity_row *identity;
    const nv_twin_row *twin;
    nv_span configurations; /* JSON; empty: none */
    nv_arena *scratch;      /* reset by the owner between rows */
    size_t fetched;         /* bytes read beyond the walk's, added up */
    /* private: what was asked for before, for this row */
    nv_datum *_slots; /* by index of path; NULL: nothing is kept */
    uint64_t *_filled;
    uint64_t _row;
} nv_query_row;

/** Messages that wait for the device or are locked; modules have none. */
uint64_t nv_query_c2d_count(nv_txn *txn, const nv_identity_row *identity);

/** The value of a bound path: resolve() of an nv_expr_env whose arg is the row. */
nv_datum nv_query_row_value(void *row, const nv_expr_path *path);

#endif
