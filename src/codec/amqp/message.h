/**
 * The AMQP 1.0 bare message and its annotations (part 3 section 3.2): sections found in place, and written.
 */
#ifndef NV_CODEC_AMQP_MESSAGE_H
#define NV_CODEC_AMQP_MESSAGE_H

#include "codec/amqp/performative.h"

/** message-format of a batch: each data section is one encoded message (amqp.md section 3.4). */
#define NV_AMQP_FORMAT_BATCH 0x80013700u

typedef enum nv_amqp_body_kind {
    NV_AMQP_BODY_NONE,
    NV_AMQP_BODY_IS_DATA,
    NV_AMQP_BODY_IS_SEQUENCE,
    NV_AMQP_BODY_IS_VALUE
} nv_amqp_body_kind;

/** Spans into the message. Maps as values whose bytes can be walked with nv_amqp_map_next; type NULL when absent. */
typedef struct nv_amqp_message {
    bool has_header;
    bool has_properties;
    nv_amqp_header header;
    nv_amqp_value delivery_annotations;
    nv_amqp_value message_annotations;
    nv_amqp_properties properties;
    nv_amqp_value application_properties;
    nv_amqp_body_kind body_kind;
    nv_span body;      /* DATA with one section: its bytes. VALUE: the encoded value. SEQUENCE: the sections as they
                          stand. DATA with several: the sections as they stand, see below */
    uint32_t sections; /* of the body */
} nv_amqp_message;

/**
 * Find the sections; unknown ones and the footer are skipped, a map that is no map is refused. Nothing is copied.
 * A body of values is good in all its depth (nv_amqp_check), identifiers and addresses of the properties are one value
 * without others inside; maps are not looked into.
 * @return NV_E_SYNTAX malformed: sections out of order, a body of two kinds, a value cut off
 */
NV_NODISCARD nv_err nv_amqp_message_read(nv_span bytes, nv_amqp_message *out);
/** Walk the data sections of a body with more than one, or of a batch: begin with nv_reader_of(the bytes).
 * @return false at the end or on an error in at->err; other sections are skipped */
bool nv_amqp_data_next(nv_reader *at, nv_span *data);
/** The body as bytes where it is bytes: data sections joined, or a value that is binary, string or symbol; no body and
 * the value null are no bytes. One data section is not copied. @param scratch  appended to when several are joined
 * @return NV_E_UNSUPPORTED the body is something else; NV_E_TOO_BIG */
NV_NODISCARD nv_err nv_amqp_message_bytes(const nv_amqp_message *message, nv_buf *scratch, nv_span *out);

/* ---- writing, in the order of the standard -------------------------------------------------------------------------
 */

void nv_amqp_put_header_section(nv_writer *w, const nv_amqp_header *header);
/** Begin one of the map sections: returns the mark for nv_amqp_end_map(). */
size_t nv_amqp_begin_map_section(nv_writer *w, nv_amqp_code section);
void nv_amqp_put_properties_section(nv_writer *w, const nv_amqp_properties *properties);
/** Head of a data section whose @p len bytes follow: the body itself need not be copied. */
void nv_amqp_put_data_head(nv_writer *w, size_t len);
/** Descriptor of an amqp-value body; the value follows. */
void nv_amqp_put_value_head(nv_writer *w);

#endif
