/**
 * Where an event reader wants to begin: the selector filter of its source (amqp.md section 5.5). Pure.
 */
#ifndef NV_SESSION_AMQP_FILTER_H
#define NV_SESSION_AMQP_FILTER_H

#include "codec/amqp/performative.h"

typedef enum amqp_position_kind {
    AMQP_FROM_BEGINNING, /* also without a filter, and for -1 */
    AMQP_FROM_LATEST,    /* behind the last event there is now */
    AMQP_FROM_OFFSET,
    AMQP_FROM_SEQUENCE,
    AMQP_FROM_TIME
} amqp_position_kind;

typedef struct amqp_position {
    amqp_position_kind kind;
    uint64_t first;  /* OFFSET, SEQUENCE: of the first event, or the next there is; at most 2^63 */
    int64_t time_us; /* TIME: wall, of the first event, or the next there is */
} amqp_position;

#define AMQP_FILTER_WHY 280u

/**
 * One comparison: name, operator, value; quoted or not.
 * @param why  a sentence that names what is wrong, when it is
 * @return NV_OK; NV_E_SYNTAX
 */
NV_NODISCARD nv_err amqp_filter_parse(nv_span text, amqp_position *out, char why[AMQP_FILTER_WHY]);

/**
 * Find the selector in the encoded filter map of a source and parse it. Other filters are not looked at.
 * @param filter  nv_amqp_source.filter; empty: from the beginning
 * @return NV_OK; NV_E_SYNTAX the expression is not valid; NV_E_INVALID the map or the described value is not
 */
NV_NODISCARD nv_err amqp_filter_read(nv_span filter, amqp_position *out, char why[AMQP_FILTER_WHY]);

#endif
