/**
 * Performatives and the other described lists of AMQP 1.0 (part 2 transport, part 3 messaging, part 5 security), all
 * made from one table: struct, decoder and encoder. The encoder always writes every field, null where it is absent,
 * because clients exist that index the decoded list without defaults (amqp.md section 7.6).
 *
 * F(name, member, kind, required): in the order of the specification. The kind names the member's C type:
 *   STRING, SYMBOL, BINARY  nv_span; absent = ptr NULL
 *   BOOLEAN                 bool; absent = false
 *   UBYTE, USHORT, UINT, ULONG  unsigned integer of that width; nv_amqp_has() tells 0 from absent
 *   TIMESTAMP               int64_t milliseconds
 *   ANY                     nv_span of the encoded value (maps, states, arrays of symbols, addresses); absent = ptr
 * NULL
 */
#ifndef NV_CODEC_AMQP_PERFORMATIVE_H
#define NV_CODEC_AMQP_PERFORMATIVE_H

#include "codec/amqp/value.h"

/* clang-format off */
#define NV_AMQP_OPEN_FIELDS(F) \
    F(open, container_id, STRING, 1) F(open, hostname, STRING, 0) F(open, max_frame_size, UINT, 0) F(open, channel_max, USHORT, 0) \
    F(open, idle_time_out, UINT, 0) F(open, outgoing_locales, ANY, 0) F(open, incoming_locales, ANY, 0) \
    F(open, offered_capabilities, ANY, 0) F(open, desired_capabilities, ANY, 0) F(open, properties, ANY, 0)
#define NV_AMQP_BEGIN_FIELDS(F) \
    F(begin, remote_channel, USHORT, 0) F(begin, next_outgoing_id, UINT, 1) F(begin, incoming_window, UINT, 1) F(begin, outgoing_window, UINT, 1) \
    F(begin, handle_max, UINT, 0) F(begin, offered_capabilities, ANY, 0) F(begin, desired_capabilities, ANY, 0) F(begin, properties, ANY, 0)
#define NV_AMQP_ATTACH_FIELDS(F) \
    F(attach, name, STRING, 1) F(attach, handle, UINT, 1) F(attach, role, BOOLEAN, 1) F(attach, snd_settle_mode, UBYTE, 0) F(attach, rcv_settle_mode, UBYTE, 0) \
    F(attach, source, ANY, 0) F(attach, target, ANY, 0) F(attach, unsettled, ANY, 0) F(attach, incomplete_unsettled, BOOLEAN, 0) \
    F(attach, initial_delivery_count, UINT, 0) F(attach, max_message_size, ULONG, 0) F(attach, offered_capabilities, ANY, 0) \
    F(attach, desired_capabilities, ANY, 0) F(attach, properties, ANY, 0)
#define NV_AMQP_FLOW_FIELDS(F) \
    F(flow, next_incoming_id, UINT, 0) F(flow, incoming_window, UINT, 1) F(flow, next_outgoing_id, UINT, 1) F(flow, outgoing_window, UINT, 1) \
    F(flow, handle, UINT, 0) F(flow, delivery_count, UINT, 0) F(flow, link_credit, UINT, 0) F(flow, available, UINT, 0) F(flow, drain, BOOLEAN, 0) \
    F(flow, echo, BOOLEAN, 0) F(flow, properties, ANY, 0)
#define NV_AMQP_TRANSFER_FIELDS(F) \
    F(transfer, handle, UINT, 1) F(transfer, delivery_id, UINT, 0) F(transfer, delivery_tag, BINARY, 0) F(transfer, message_format, UINT, 0) \
    F(transfer, settled, BOOLEAN, 0) F(transfer, more, BOOLEAN, 0) F(transfer, rcv_settle_mode, UBYTE, 0) F(transfer, state, ANY, 0) F(transfer, resume, BOOLEAN, 0) \
    F(transfer, aborted, BOOLEAN, 0) F(transfer, batchable, BOOLEAN, 0)
#define NV_AMQP_DISPOSITION_FIELDS(F) \
    F(disposition, role, BOOLEAN, 1) F(disposition, first, UINT, 1) F(disposition, last, UINT, 0) F(disposition, settled, BOOLEAN, 0) F(disposition, state, ANY, 0) F(disposition, batchable, BOOLEAN, 0)
#define NV_AMQP_DETACH_FIELDS(F) F(detach, handle, UINT, 1) F(detach, closed, BOOLEAN, 0) F(detach, error, ANY, 0)
#define NV_AMQP_END_FIELDS(F) F(end, error, ANY, 0)
#define NV_AMQP_CLOSE_FIELDS(F) F(close, error, ANY, 0)
#define NV_AMQP_ERROR_FIELDS(F) F(error, condition, SYMBOL, 1) F(error, description, STRING, 0) F(error, info, ANY, 0)
#define NV_AMQP_SASL_MECHANISMS_FIELDS(F) F(sasl_mechanisms, mechanisms, ANY, 1)
#define NV_AMQP_SASL_INIT_FIELDS(F) F(sasl_init, mechanism, SYMBOL, 1) F(sasl_init, initial_response, BINARY, 0) F(sasl_init, hostname, STRING, 0)
#define NV_AMQP_SASL_CHALLENGE_FIELDS(F) F(sasl_challenge, challenge, BINARY, 1)
#define NV_AMQP_SASL_RESPONSE_FIELDS(F) F(sasl_response, response, BINARY, 1)
#define NV_AMQP_SASL_OUTCOME_FIELDS(F) F(sasl_outcome, code, UBYTE, 1) F(sasl_outcome, additional_data, BINARY, 0)
#define NV_AMQP_SOURCE_FIELDS(F) \
    F(source, address, ANY, 0) F(source, durable, UINT, 0) F(source, expiry_policy, SYMBOL, 0) F(source, timeout, UINT, 0) F(source, dynamic, BOOLEAN, 0) \
    F(source, dynamic_node_properties, ANY, 0) F(source, distribution_mode, SYMBOL, 0) F(source, filter, ANY, 0) F(source, default_outcome, ANY, 0) \
    F(source, outcomes, ANY, 0) F(source, capabilities, ANY, 0)
#define NV_AMQP_TARGET_FIELDS(F) \
    F(target, address, ANY, 0) F(target, durable, UINT, 0) F(target, expiry_policy, SYMBOL, 0) F(target, timeout, UINT, 0) F(target, dynamic, BOOLEAN, 0) \
    F(target, dynamic_node_properties, ANY, 0) F(target, capabilities, ANY, 0)
#define NV_AMQP_RECEIVED_FIELDS(F) F(received, section_number, UINT, 1) F(received, section_offset, ULONG, 1)
#define NV_AMQP_REJECTED_FIELDS(F) F(rejected, error, ANY, 0)
#define NV_AMQP_MODIFIED_FIELDS(F) \
    F(modified, delivery_failed, BOOLEAN, 0) F(modified, undeliverable_here, BOOLEAN, 0) F(modified, message_annotations, ANY, 0)
#define NV_AMQP_NO_FIELDS(F)
#define NV_AMQP_HEADER_FIELDS(F) \
    F(header, durable, BOOLEAN, 0) F(header, priority, UBYTE, 0) F(header, ttl, UINT, 0) F(header, first_acquirer, BOOLEAN, 0) F(header, delivery_count, UINT, 0)
#define NV_AMQP_PROPERTIES_FIELDS(F) \
    F(properties, message_id, ANY, 0) F(properties, user_id, BINARY, 0) F(properties, to, ANY, 0) F(properties, subject, STRING, 0) F(properties, reply_to, ANY, 0) \
    F(properties, correlation_id, ANY, 0) F(properties, content_type, SYMBOL, 0) F(properties, content_encoding, SYMBOL, 0) \
    F(properties, absolute_expiry_time, TIMESTAMP, 0) F(properties, creation_time, TIMESTAMP, 0) F(properties, group_id, STRING, 0) \
    F(properties, group_sequence, UINT, 0) F(properties, reply_to_group_id, STRING, 0)

/* X(NAME, name, descriptor code, descriptor symbol, fields) */
#define NV_AMQP_TABLE(X) \
    X(OPEN, open, 0x10, "amqp:open:list", NV_AMQP_OPEN_FIELDS) \
    X(BEGIN, begin, 0x11, "amqp:begin:list", NV_AMQP_BEGIN_FIELDS) \
    X(ATTACH, attach, 0x12, "amqp:attach:list", NV_AMQP_ATTACH_FIELDS) \
    X(FLOW, flow, 0x13, "amqp:flow:list", NV_AMQP_FLOW_FIELDS) \
    X(TRANSFER, transfer, 0x14, "amqp:transfer:list", NV_AMQP_TRANSFER_FIELDS) \
    X(DISPOSITION, disposition, 0x15, "amqp:disposition:list", NV_AMQP_DISPOSITION_FIELDS) \
    X(DETACH, detach, 0x16, "amqp:detach:list", NV_AMQP_DETACH_FIELDS) \
    X(END, end, 0x17, "amqp:end:list", NV_AMQP_END_FIELDS) \
    X(CLOSE, close, 0x18, "amqp:close:list", NV_AMQP_CLOSE_FIELDS) \
    X(ERROR, error, 0x1d, "amqp:error:list", NV_AMQP_ERROR_FIELDS) \
    X(RECEIVED, received, 0x23, "amqp:received:list", NV_AMQP_RECEIVED_FIELDS) \
    X(ACCEPTED, accepted, 0x24, "amqp:accepted:list", NV_AMQP_NO_FIELDS) \
    X(REJECTED, rejected, 0x25, "amqp:rejected:list", NV_AMQP_REJECTED_FIELDS) \
    X(RELEASED, released, 0x26, "amqp:released:list", NV_AMQP_NO_FIELDS) \
    X(MODIFIED, modified, 0x27, "amqp:modified:list", NV_AMQP_MODIFIED_FIELDS) \
    X(SOURCE, source, 0x28, "amqp:source:list", NV_AMQP_SOURCE_FIELDS) \
    X(TARGET, target, 0x29, "amqp:target:list", NV_AMQP_TARGET_FIELDS) \
    X(SASL_MECHANISMS, sasl_mechanisms, 0x40, "amqp:sasl-mechanisms:list", NV_AMQP_SASL_MECHANISMS_FIELDS) \
    X(SASL_INIT, sasl_init, 0x41, "amqp:sasl-init:list", NV_AMQP_SASL_INIT_FIELDS) \
    X(SASL_CHALLENGE, sasl_challenge, 0x42, "amqp:sasl-challenge:list", NV_AMQP_SASL_CHALLENGE_FIELDS) \
    X(SASL_RESPONSE, sasl_response, 0x43, "amqp:sasl-response:list", NV_AMQP_SASL_RESPONSE_FIELDS) \
    X(SASL_OUTCOME, sasl_outcome, 0x44, "amqp:sasl-outcome:list", NV_AMQP_SASL_OUTCOME_FIELDS) \
    X(HEADER, header, 0x70, "amqp:header:list", NV_AMQP_HEADER_FIELDS) \
    X(PROPERTIES, properties, 0x73, "amqp:properties:list", NV_AMQP_PROPERTIES_FIELDS)
/* clang-format on */

typedef enum nv_amqp_code {
#define X(NAME, name, code, symbol, fields) NV_AMQP_##NAME = (code),
    NV_AMQP_TABLE(X)
#undef X
    /* sections of a message that are no lists */
    NV_AMQP_DELIVERY_ANNOTATIONS = 0x71,
    NV_AMQP_MESSAGE_ANNOTATIONS = 0x72,
    NV_AMQP_APPLICATION_PROPERTIES = 0x74,
    NV_AMQP_DATA = 0x75,
    NV_AMQP_SEQUENCE = 0x76,
    NV_AMQP_BODY_VALUE = 0x77,
    NV_AMQP_FOOTER = 0x78,
    NV_AMQP_DELETE_ON_CLOSE = 0x2b
} nv_amqp_code;

#define NV_AMQP_C_STRING    nv_span
#define NV_AMQP_C_SYMBOL    nv_span
#define NV_AMQP_C_BINARY    nv_span
#define NV_AMQP_C_ANY       nv_span
#define NV_AMQP_C_BOOLEAN   bool
#define NV_AMQP_C_UBYTE     uint8_t
#define NV_AMQP_C_USHORT    uint16_t
#define NV_AMQP_C_UINT      uint32_t
#define NV_AMQP_C_ULONG     uint64_t
#define NV_AMQP_C_TIMESTAMP int64_t

/**
 * One struct per row, `nv_amqp_open` and so on. Bit NV_AMQP_OF_open_hostname of `present` says whether the member is
 * there: the decoder sets it, and the encoder asks it for integers, booleans and times (spans are absent when ptr is
 * NULL; an empty span with a ptr is written as such).
 */
#define NV_AMQP_MEMBER(name, member, kind, required) NV_AMQP_C_##kind member;
#define NV_AMQP_INDEX(name, member, kind, required)  NV_AMQP_OF_##name##_##member,
#define X(NAME, name, code, symbol, fields)                                                                            \
    enum { fields(NV_AMQP_INDEX) NV_AMQP_COUNT_OF_##name };                                                            \
    typedef struct nv_amqp_##name {                                                                                    \
        uint32_t present;                                                                                              \
        fields(NV_AMQP_MEMBER)                                                                                         \
    } nv_amqp_##name;
NV_AMQP_TABLE(X)
#undef X

#define NV_AMQP_HAS(p, name, member) (((p)->present >> NV_AMQP_OF_##name##_##member & 1u) != 0)
#define NV_AMQP_SET(p, name, member, value)                                                                            \
    ((p)->member = (value), (p)->present |= UINT32_C(1) << NV_AMQP_OF_##name##_##member)

/** Any of them, told by its descriptor. */
typedef struct nv_amqp_performative {
    nv_amqp_code code;
    union {
#define X(NAME, name, code, symbol, fields) nv_amqp_##name name;
        NV_AMQP_TABLE(X)
#undef X
    };
} nv_amqp_performative;

/**
 * Read one described list of the table, by number or symbol. Spans point into the input. Fewer fields than the table
 * has are absent ones, more are refused.
 * @return NV_E_SYNTAX not a described list, a field of another type, a required one absent; NV_E_UNSUPPORTED a
 *         descriptor that is not in the table (the value was skipped). r stands behind it unless NV_E_SYNTAX
 */
NV_NODISCARD nv_err nv_amqp_decode(nv_reader *r, nv_amqp_performative *out);
/** The same for a field of kind ANY that holds one: a source, a state, an error. */
NV_NODISCARD nv_err nv_amqp_decode_span(nv_span encoded, nv_amqp_performative *out);
/** Write it with every field of the table (list8 where it fits, never list0 unless the table has no field). */
void nv_amqp_encode(nv_writer *w, const nv_amqp_performative *p);
/** "open", ... for logs. NULL: not in the table. Static storage. */
const char *nv_amqp_name(uint64_t code);

/* Typed helpers: `nv_amqp_encode_open(w, &open)` and so on. */
#define X(NAME, name, code, symbol, fields) void nv_amqp_encode_##name(nv_writer *w, const nv_amqp_##name *p);
NV_AMQP_TABLE(X)
#undef X

/** The text of an address (a string, symbol or binary). Empty: null or absent, or of another type. */
nv_span nv_amqp_text_of(nv_span any);

#endif
