/**
 * AMQP frames as lines of text, both ways, for transcripts.
 *
 * To bytes: the performative and words `key=value`, `flag`:
 *   header sasl | header amqp | hex 00ff...
 *   sasl-init plain=user:password | sasl-init mechanism=X
 *   open container=c max-frame=512 idle=1000 channel-max=5
 *   begin ch=0 window=10 handle-max=4
 *   attach name=a handle=0 sender source=/x target=/y snd=1 rcv=1 count=0 max=100 unsettled   (sender: who writes it)
 *   flow next-in=0 window=100 next-out=0 handle=0 count=0 credit=10 drain echo
 *   transfer handle=0 id=0 tag=01 body=10 format=5 settled more aborted resume   (body: that many test bytes)
 *   disposition receiver first=0 last=1 settled accepted|rejected=amqp:x|released|modified|received
 *   detach handle=0 closed error=amqp:x | end error=... | close error=... | empty
 */
#ifndef NV_TESTS_SUPPORT_AMQP_SCRIPT_H
#define NV_TESTS_SUPPORT_AMQP_SCRIPT_H

#include "codec/amqp/frame.h"

/** Append the bytes of the lines. Aborts on a line that it does not know. */
void amqp_script_put(nv_buf *out, const char *lines);
/** Append a line for each header and frame; what is no frame ends the text with a line "garbage". */
void amqp_script_say(nv_span bytes, nv_buf *text);

#endif
