/** The rules of AMQP 1.0 one by one: what a client writes, what the server half answers and what its owner is told.
 * Every row runs with its bytes whole, one by one and in random pieces, and is cut off after each byte. */
#include "support/amqp_pair.h"
#include "support/amqp_script.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define OPEN_UP  "header amqp\nopen container=c\n"
#define BEGIN_UP OPEN_UP "begin\n"
#define IN_UP    BEGIN_UP "attach name=in handle=0 sender source=/s target=/t\n"
#define OUT_UP   BEGIN_UP "attach name=out handle=0 source=/s target=/t\n"
#define CREDIT   "flow handle=0 count=0 credit=10\n"
#define OUT_2    OUT_UP CREDIT

#define ONE_LINK(n)        "attach name=" n " handle=" n " sender target=/t\n"
#define TWO_LINKS(d, a, b) ONE_LINK(d a) ONE_LINK(d b)
#define FOUR_LINKS(d)      TWO_LINKS(d, "0", "1") TWO_LINKS(d, "2", "3")
#define SIX_LINKS(d)       FOUR_LINKS(d) TWO_LINKS(d, "4", "5")
#define TEN_LINKS(d)       SIX_LINKS(d) TWO_LINKS(d, "6", "7") TWO_LINKS(d, "8", "9")

#define REFUSED(name, handle)                                                                                          \
    "attach name=" name " handle=" handle " receiver snd=2 rcv=0 max=1048576\n"                                        \
    "detach handle=" handle " closed error=amqp:resource-limit-exceeded\n"

typedef struct rule {
    const char *clause;
    const char *before; /* what it answers to these is not looked at */
    void (*setup)(amqp_owner *owner);
    const char *in;
    const char *out;
    const char *log; /* NULL: not looked at */
} rule;

static void no_sasl(amqp_owner *owner)
{
    owner->conn.config.sasl_mechanisms = NULL;
}

static void bad_password(amqp_owner *owner)
{
    owner->sasl_code = 1;
}

static void one_session(amqp_owner *owner)
{
    owner->conn.config.sessions = 1;
}

static void one_link(amqp_owner *owner)
{
    owner->conn.config.links = 1;
}

static void one_link_refused(amqp_owner *owner)
{
    owner->conn.config.links = 1;
    owner->refuse = NV_AMQP_ERR_NOT_FOUND;
}

static void refuse(amqp_owner *owner)
{
    owner->refuse = NV_AMQP_ERR_NOT_FOUND;
}

static void close_in_opened(amqp_owner *owner)
{
    owner->close_in_opened = true;
}

static void credit_2(amqp_owner *owner)
{
    owner->credit = 2;
    owner->keep = true;
}

static void keep(amqp_owner *owner)
{
    owner->keep = true;
}

static void small_messages(amqp_owner *owner)
{
    owner->max_message = 20;
}

static void small_budget(amqp_owner *owner)
{
    owner->conn.config.max_unsettled_bytes = 100;
}

static void send_3(amqp_owner *owner)
{
    owner->to_send = 3;
    owner->send_size = 5;
}

static void send_big(amqp_owner *owner)
{
    owner->to_send = 1;
    owner->send_size = 1000;
}

static void send_settled(amqp_owner *owner)
{
    owner->to_send = 1;
    owner->send_settled = true;
}

static void strangers_512(amqp_owner *owner)
{
    owner->conn.config.unauthenticated_frame = 512;
}

static void rcv_first(amqp_owner *owner)
{
    owner->rcv_first = true;
}

#define OPENED "open container=DeviceGateway_test max-frame=65536 channel-max=8191 idle=240000\n"

static const rule header_rules[] = {
    {"2.2 another version", "", NULL, "hex 414d515000020000", "header sasl\nclosed\n", NULL},
    {"2.2 not AMQP", "", NULL, "hex 474554202f204854", "header sasl\nclosed\n", NULL},
    {"2.2 TLS inside", "", NULL, "header tls", "header sasl\nclosed\n",
     "ended amqp:not-implemented: another protocol header was expected\n"},
    {"2.2 SASL where there is none", "", no_sasl, "header sasl", "header amqp\nclosed\n", NULL},
    {"5.3.2 the layer is offered", "", NULL, "header sasl",
     "header sasl\nsasl_mechanisms PLAIN ANONYMOUS EXTERNAL MSSBCBS\n", ""},
    {"5.3.2 an init that is accepted", "header sasl", NULL, "sasl-init plain=user:password", "sasl_outcome code=0\n",
     "sasl PLAIN 14 bytes for \n"},
    {"5.3.2 and then AMQP", "header sasl\nsasl-init plain=u:p\n", NULL, OPEN_UP, "header amqp\n" OPENED, "opened c\n"},
    {"5.3.2 and not SASL again", "header sasl\nsasl-init plain=u:p\n", NULL, "header sasl", "header amqp\nclosed\n",
     NULL},
    {"5.3.2 an init that is refused", "header sasl", bad_password, "sasl-init plain=user:password",
     "sasl_outcome code=1\nclosed\n",
     "sasl PLAIN 14 bytes for \nended amqp:unauthorized-access: SASL: not authenticated\n"},
    {"5.3.3 a mechanism that was not offered", "header sasl", NULL, "sasl-init mechanism=CRAM-MD5",
     "sasl_outcome code=1\nclosed\n", "ended amqp:unauthorized-access: SASL: not authenticated\n"},
    {"5.3.1 an AMQP frame in the layer", "header sasl", NULL, "open container=c", "closed\n",
     "ended amqp:connection:framing-error: a frame of the wrong type\n"},
    {"5.3.1 a SASL frame of more than 8 KiB", "header sasl", NULL, "hex 0000200102010000", "closed\n", NULL},
    {"5.3.2 a frame that only servers send", "header sasl", NULL,
     "hex 00000011020100000053"
     "44c00402500040",
     "closed\n", NULL},
};

static const rule open_rules[] = {
    {"2.4.1 open is answered", "header amqp", NULL, "open container=c", OPENED, "opened c\n"},
    {"2.4.1 something before open", "header amqp", NULL, "begin", OPENED "close error=amqp:not-allowed\nclosed\n",
     "ended amqp:not-allowed: begin before open\n"},
    {"2.4.1 open twice", OPEN_UP, NULL, "open container=c", "close error=amqp:not-allowed\nclosed\n", NULL},
    {"2.7.1 max-frame-size below 512", "header amqp", NULL, "open container=c max-frame=511",
     OPENED "close error=amqp:invalid-field\nclosed\n", NULL},
    {"2.7.1 idle-time-out too small", "header amqp", NULL, "open container=c idle=4999",
     OPENED "close error=amqp:not-allowed\nclosed\n", NULL},
    {"2.7.1 no container-id", "header amqp", NULL,
     "hex 0000000d02000000"
     "005310"
     "c00100",
     OPENED "close error=amqp:decode-error\nclosed\n", NULL},
    {"2.4.3 the owner says no", "header amqp", close_in_opened, "open container=c",
     OPENED "close error=amqp:not-allowed\n", "opened c\n"},
    {"2.4.3 close is answered", OPEN_UP, NULL, "close", "close\nclosed\n", "ended : \n"},
    {"2.4.3 close with an error", OPEN_UP, NULL, "close error=amqp:internal-error", "close\nclosed\n",
     "ended amqp:internal-error: said by the peer\n"},
    {"2.4.3 close before our open is out", "header amqp", NULL, "close",
     OPENED "close error=amqp:not-allowed\nclosed\n", NULL},
    {"2.3.1 a frame of 7 bytes", OPEN_UP, NULL, "hex 0000000702000000",
     "close error=amqp:connection:framing-error\nclosed\n", NULL},
    {"2.3.1 a data offset inside of the header", OPEN_UP, NULL, "hex 0000000801000000",
     "close error=amqp:connection:framing-error\nclosed\n", NULL},
    {"2.3.1 a data offset behind the frame", OPEN_UP, NULL, "hex 0000000803000000",
     "close error=amqp:connection:framing-error\nclosed\n", NULL},
    {"2.3.1 an unknown type", OPEN_UP, NULL, "hex 0000000802050000",
     "close error=amqp:connection:framing-error\nclosed\n", NULL},
    {"2.3.1 a SASL frame outside of its layer", OPEN_UP, NULL, "sasl-init plain=u:p",
     "close error=amqp:connection:framing-error\nclosed\n", NULL},
    {"2.7.1 a frame above max-frame-size", OPEN_UP, NULL, "hex 0001000102000000",
     "close error=amqp:connection:framing-error\nclosed\n",
     "ended amqp:connection:framing-error: a frame of 65537 bytes where at most 65536 are allowed\n"},
    {"a frame above what strangers may send", OPEN_UP, strangers_512, "hex 0000020102000000",
     "close error=amqp:connection:framing-error\nclosed\n", NULL},
    {"2.3.1 an extended header is skipped", OPEN_UP, NULL,
     "hex 0000001803000000"
     "deadbeef"
     "005311c0070440435201"
     "5201",
     "begin remote=0 window=8192 handle-max=255\n", ""},
    {"2.4.5 an empty frame", OPEN_UP, NULL, "empty", "", ""},
    {"2.3.2 no performative", OPEN_UP, NULL,
     "hex 0000000c02000000"
     "ffffffff",
     "close error=amqp:decode-error\nclosed\n", "ended amqp:decode-error: a frame that cannot be decoded\n"},
    {"2.3.2 an unknown one", OPEN_UP, NULL,
     "hex 0000000c02000000"
     "00539945",
     "close error=amqp:decode-error\nclosed\n", "ended amqp:decode-error: a frame of an unknown kind\n"},
    {"2.3.2 one that is none of its own", OPEN_UP, NULL,
     "hex 0000000c02000000"
     "00532445",
     "close error=amqp:not-allowed\nclosed\n", "ended amqp:not-allowed: accepted is out of place\n"},
    {"2.3.2 bytes behind a performative", BEGIN_UP, NULL, "flow body=1", "close error=amqp:decode-error\nclosed\n",
     NULL},
};

static const rule session_rules[] = {
    {"2.5.1 begin is answered", OPEN_UP, NULL, "begin ch=3", "begin ch=3 remote=3 window=8192 handle-max=255\n", ""},
    {"2.5.1 several", BEGIN_UP, NULL, "begin ch=9\nbegin ch=1",
     "begin ch=9 remote=9 window=8192 handle-max=255\nbegin ch=1 remote=1 window=8192 handle-max=255\n", ""},
    {"2.5.1 a channel that the client cannot take", "header amqp\nopen container=c channel-max=2\n", NULL, "begin ch=5",
     "begin remote=5 window=8192 handle-max=255\n", ""},
    {"2.7.1 above channel-max", OPEN_UP, NULL, "begin ch=8192", "close error=amqp:connection:framing-error\nclosed\n",
     NULL},
    {"2.5.1 the channel is taken", BEGIN_UP, NULL, "begin", "close error=amqp:not-allowed\nclosed\n", NULL},
    {"2.7.2 an answer that nobody asked for", OPEN_UP, NULL, "begin remote=4", "close error=amqp:not-allowed\nclosed\n",
     NULL},
    {"too many sessions", BEGIN_UP, one_session, "begin ch=1", "close error=amqp:resource-limit-exceeded\nclosed\n",
     NULL},
    {"2.5.4 end is answered", IN_UP, NULL, "end", "end\n", "detached in \n"},
    {"2.5.4 end with an error", IN_UP, NULL, "end error=amqp:session:errant-link", "end\n",
     "detached in amqp:session:errant-link\n"},
    {"2.5.4 the channel is free again", BEGIN_UP "end\n", NULL, "begin", "begin remote=0 window=8192 handle-max=255\n",
     ""},
    {"pyamqp's detach after its end", IN_UP "end\n", NULL, "detach handle=0 closed", "", ""},
    {"other strays", OPEN_UP, NULL, "flow\ndisposition receiver first=0\nend ch=7", "", ""},
    {"a transfer on a channel without session", OPEN_UP, NULL, "transfer handle=0 id=0 tag=01",
     "close error=amqp:not-allowed\nclosed\n", NULL},
    {"an attach on a channel without session", OPEN_UP, NULL, "attach name=a handle=0 sender",
     "close error=amqp:not-allowed\nclosed\n", NULL},
    {"2.5.6 echo of the session", BEGIN_UP, NULL, "flow next-in=0 echo", "flow next-in=0 window=8192 next-out=0\n", ""},
};

static const rule link_rules[] = {
    {"2.6.3 a sender attaches", BEGIN_UP, NULL, "attach name=in handle=7 sender source=/s target=/t snd=0 rcv=1",
     "attach name=in handle=0 receiver snd=0 rcv=1 source target max=1048576\n"
     "flow next-in=0 window=8192 next-out=0 handle=0 count=0 credit=100\n",
     "attach in receiver\n"},
    {"2.6.3 its count need not begin at 0", BEGIN_UP, NULL, "attach name=in handle=7 sender target=/t count=4294967295",
     "attach name=in handle=0 receiver snd=2 rcv=0 target max=1048576\n"
     "flow next-in=0 window=8192 next-out=0 handle=0 count=4294967295 credit=100\n",
     "attach in receiver\n"},
    {"2.6.3 a receiver attaches", BEGIN_UP, NULL, "attach name=out handle=7 source=/s target=/t rcv=1",
     "attach name=out handle=0 sender snd=2 rcv=1 source target count=set max=1048576\n", "attach out sender\n"},
    {"2.6.3 the mode is answered as first", BEGIN_UP, rcv_first, "attach name=out handle=7 source=/s target=/t rcv=1",
     "attach name=out handle=0 sender snd=2 rcv=0 source target count=set max=1048576\n", "attach out sender\n"},
    {"2.6.3 two with one name and two roles", IN_UP, NULL, "attach name=in handle=1 source=/s target=/t",
     "attach name=in handle=1 sender snd=2 rcv=0 source target count=set max=1048576\n", "attach in sender\n"},
    {"2.6.3 a refusal", BEGIN_UP, refuse, "attach name=in handle=7 sender source=/s target=/t",
     "attach name=in handle=0 receiver snd=2 rcv=0 max=1048576\ndetach handle=0 closed error=amqp:not-found\n",
     "attach in receiver\n"},
    {"and what crosses it", BEGIN_UP "attach name=in handle=7 sender source=/s\n", refuse,
     "flow handle=7 count=0 credit=5 echo\ntransfer handle=7 id=0 tag=01 body=4\ndetach handle=7 closed", "", ""},
    {"2.6.3 the handle is in use", IN_UP, NULL, "attach name=x handle=0 sender target=/t",
     "end error=amqp:session:handle-in-use\n", "detached in amqp:session:handle-in-use\n"},
    {"2.7.2 above handle-max", BEGIN_UP, NULL, "attach name=x handle=256 sender target=/t",
     "close error=amqp:connection:framing-error\nclosed\n", NULL},
    {"2.7.3 an unknown settle mode", BEGIN_UP, NULL, "attach name=x handle=0 sender target=/t snd=3",
     "end error=amqp:invalid-field\n", ""},
    {"2.6.1 the name is taken: the newer link stays", IN_UP, NULL, "attach name=in handle=1 sender target=/t",
     "detach handle=0 closed error=amqp:link:stolen\n"
     "attach name=in handle=1 receiver snd=2 rcv=0 target max=1048576\n"
     "flow next-in=0 window=8192 next-out=0 handle=1 count=0 credit=100\n",
     "detached in amqp:link:stolen\nattach in receiver\n"},
    {"but in another session, as .NET does it", IN_UP "begin ch=1\n", NULL,
     "attach ch=1 name=in handle=0 sender target=/t",
     "attach ch=1 name=in handle=0 receiver snd=2 rcv=0 target max=1048576\n"
     "flow ch=1 next-in=0 window=8192 next-out=0 handle=0 count=0 credit=100\n",
     "attach in receiver\n"},
    {"2.6.6 detach is answered", IN_UP, NULL, "detach handle=0 closed", "detach handle=0 closed\n", "detached in \n"},
    {"2.6.6 without closing it", IN_UP, NULL, "detach handle=0 error=amqp:link:detach-forced", "detach handle=0\n",
     "detached in amqp:link:detach-forced\n"},
    {"2.6.4 attached again", IN_UP "detach handle=0 closed\n", NULL, "attach name=in handle=0 sender target=/t",
     "attach name=in handle=0 receiver snd=2 rcv=0 target max=1048576\n"
     "flow next-in=0 window=8192 next-out=0 handle=0 count=0 credit=100\n",
     "attach in receiver\n"},
    {"2.6.13 nothing is resumed", BEGIN_UP, NULL, "attach name=in handle=0 sender target=/t unsettled",
     "attach name=in handle=0 receiver snd=2 rcv=0 target max=1048576\n"
     "flow next-in=0 window=8192 next-out=0 handle=0 count=0 credit=100\n",
     "attach in receiver\n"},
    {"2.6.13 no delivery either", IN_UP, NULL, "transfer handle=0 id=0 tag=01 resume body=3",
     "detach handle=0 closed error=amqp:illegal-state\n", "detached in amqp:illegal-state\n"},
    {"4.5.1 no transactions", BEGIN_UP, NULL, "attach name=tx handle=0 sender coordinator",
     "attach name=tx handle=0 receiver snd=2 rcv=0 max=1048576\ndetach handle=0 closed error=amqp:not-implemented\n",
     ""},
    {"2.6.3 a target that is none", BEGIN_UP, NULL, "hex 0000001c02000000005312c00f07a101614342404040005329a10162",
     "close error=amqp:decode-error\nclosed\n", NULL},
    {"2.7.2 the peer's handle-max",
     "header amqp\nopen container=c\nbegin handle-max=0\nattach name=in handle=0 sender\n", NULL,
     "attach name=b handle=1 sender", "end error=amqp:resource-limit-exceeded\n", NULL},
    {"refused ones whose end is never answered", BEGIN_UP TEN_LINKS("0") SIX_LINKS("1"), one_link_refused,
     SIX_LINKS("2"),
     REFUSED("20", "16") REFUSED("21", "17") REFUSED("22", "18") "close error=amqp:resource-limit-exceeded\nclosed\n",
     NULL},
    {"too many links", IN_UP, one_link, "attach name=b handle=1 sender target=/t",
     "attach name=b handle=1 receiver snd=2 rcv=0 max=1048576\n"
     "detach handle=1 closed error=amqp:resource-limit-exceeded\n",
     ""},
    {"2.6.7 echo of a link", IN_UP, NULL, "flow handle=0 count=0 echo",
     "flow next-in=0 window=8192 next-out=0 handle=0 count=0 credit=100\n", ""},
    {"pyamqp's credit for what it sends", IN_UP, NULL, "flow handle=0 count=0 credit=300", "", ""},
    {"2.6.7 the sender has used credit up", IN_UP, NULL, "flow handle=0 count=40 drain echo",
     "flow next-in=0 window=8192 next-out=0 handle=0 count=40 credit=60\n", ""},
    {"2.6.7 a count that cannot be", IN_UP, NULL, "flow handle=0 count=101 echo",
     "flow next-in=0 window=8192 next-out=0 handle=0 count=0 credit=100\n", ""},
    {"a flow for a handle that was never there", BEGIN_UP, NULL, "flow handle=9 count=0 credit=1", "", ""},
};

#define ONE "disposition receiver first=0 last=0 settled accepted\n"

static const rule receive_rules[] = {
    {"2.6.12 a delivery", IN_UP, NULL, "transfer handle=0 id=0 tag=0102 format=2147563264 body=9", ONE,
     "delivery 0 tag 2 format 80013700 9 bytes\n"},
    {"2.6.12 settled by its sender", IN_UP, NULL, "transfer handle=0 id=0 tag=01 settled body=9", "",
     "delivery 0 tag 1 format 0 9 bytes settled\n"},
    {"2.6.12 an empty one", IN_UP, NULL, "transfer handle=0 id=5 tag=01",
     "disposition receiver first=5 last=5 settled accepted\n", "delivery 5 tag 1 format 0 0 bytes\n"},
    {"2.6.12 consecutive ones share an answer", IN_UP, NULL,
     "transfer handle=0 id=0 tag=01 body=1\ntransfer handle=0 id=1 tag=01 body=1\ntransfer handle=0 id=2 tag=01 body=1",
     "disposition receiver first=0 last=2 settled accepted\n", NULL},
    {"2.6.14 in several frames", IN_UP, NULL,
     "transfer handle=0 id=0 tag=01 format=7 more body=10\ntransfer handle=0 more body=10\nempty\n"
     "transfer handle=0 id=0 body=10",
     ONE, "delivery 0 tag 1 format 7 30 bytes\n"},
    {"2.7.5 settled in the last frame", IN_UP, NULL,
     "transfer handle=0 id=0 tag=01 more body=10\ntransfer handle=0 settled body=1", "",
     "delivery 0 tag 1 format 0 11 bytes settled\n"},
    {"2.6.14 two links in turn", IN_UP "attach name=b handle=1 sender target=/t\n", NULL,
     "transfer handle=0 id=0 tag=01 more body=10\ntransfer handle=1 id=1 tag=01 body=3\ntransfer handle=0 body=1",
     "disposition receiver first=0 last=1 settled accepted\n",
     "delivery 1 tag 1 format 0 3 bytes\ndelivery 0 tag 1 format 0 11 bytes\n"},
    {"2.7.5 aborted", IN_UP, NULL,
     "transfer handle=0 id=0 tag=01 more body=10\ntransfer handle=0 aborted\ntransfer handle=0 id=1 tag=01 body=1",
     "disposition receiver first=1 last=1 settled accepted\n", "delivery 1 tag 1 format 0 1 bytes\n"},
    {"2.7.5 aborted at once", IN_UP, NULL,
     "transfer handle=0 id=0 tag=01 aborted body=10\ntransfer handle=0 id=1 tag=01 body=1",
     "disposition receiver first=1 last=1 settled accepted\n", "delivery 1 tag 1 format 0 1 bytes\n"},
    {"2.7.5 another delivery inside", IN_UP, NULL,
     "transfer handle=0 id=0 tag=01 more body=10\ntransfer handle=0 id=1 tag=02 body=1", "end error=amqp:not-allowed\n",
     "detached in amqp:not-allowed\n"},
    {"2.7.5 no delivery-id", IN_UP, NULL, "transfer handle=0 tag=01 body=1",
     "detach handle=0 closed error=amqp:invalid-field\n", "detached in amqp:invalid-field\n"},
    {"2.7.5 an id again", IN_UP "transfer handle=0 id=4 tag=01\n", NULL, "transfer handle=0 id=4 tag=02",
     "end error=amqp:invalid-field\n", "detached in amqp:invalid-field\n"},
    {"2.7.5 ids wrap", IN_UP "transfer handle=0 id=4294967295 tag=01\n", NULL, "transfer handle=0 id=0 tag=02", ONE,
     "delivery 0 tag 1 format 0 0 bytes\n"},
    {"2.8.7 a tag of 33 bytes", IN_UP, NULL,
     "transfer handle=0 id=0 tag=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20",
     "detach handle=0 closed error=amqp:invalid-field\n", "detached in amqp:invalid-field\n"},
    {"2.6.7 without credit", IN_UP "transfer handle=0 id=0 tag=01\ntransfer handle=0 id=1 tag=01\n", credit_2,
     "transfer handle=0 id=2 tag=01\ntransfer handle=0 id=3 tag=01\ndetach handle=0 closed",
     "detach handle=0 closed error=amqp:link:transfer-limit-exceeded\n",
     "detached in amqp:link:transfer-limit-exceeded\n"},
    {"2.7.3 a message above max-message-size", IN_UP, small_messages, "transfer handle=0 id=0 tag=01 body=21",
     "detach handle=0 closed error=amqp:link:message-size-exceeded\n", "detached in amqp:link:message-size-exceeded\n"},
    {"2.7.3 the same in frames", IN_UP, small_messages,
     "transfer handle=0 id=0 tag=01 more body=20\ntransfer handle=0 more body=1\ntransfer handle=0 body=1",
     "detach handle=0 closed error=amqp:link:message-size-exceeded\n", "detached in amqp:link:message-size-exceeded\n"},
    {"2.5.7 an unattached handle", IN_UP, NULL, "transfer handle=3 id=0 tag=01",
     "end error=amqp:session:unattached-handle\n", "detached in amqp:session:unattached-handle\n"},
    {"what crosses our end", IN_UP, NULL,
     "transfer handle=3 id=0 tag=01\ntransfer handle=0 id=1 tag=01\nattach name=z handle=5 sender\nend\nbegin",
     "end error=amqp:session:unattached-handle\nbegin remote=0 window=8192 handle-max=255\n",
     "detached in amqp:session:unattached-handle\n"},
    {"2.6.2 a transfer to the sender", OUT_UP, NULL, "transfer handle=0 id=0 tag=01",
     "detach handle=0 closed error=amqp:not-allowed\n", "detached out amqp:not-allowed\n"},
    {"2.6.12 its sender settles it first", IN_UP "transfer handle=0 id=0 tag=01 body=5\n", keep,
     "disposition first=0 settled\nclose", "close\nclosed\n", "detached in \nended : \n"},
    {"the budget: incomplete messages alone", IN_UP "attach name=b handle=1 sender target=/t\n", small_budget,
     "transfer handle=0 id=0 tag=01 more body=60\ntransfer handle=1 id=1 tag=01 more body=60\ntransfer handle=0 body=1",
     "detach handle=1 closed error=amqp:resource-limit-exceeded\n" ONE,
     "detached b amqp:resource-limit-exceeded\ndelivery 0 tag 1 format 0 61 bytes\n"},
};

#define SENT(n) "transfer handle=0 id=" #n " tag=4 format=0 5 bytes\n"

static const rule send_rules[] = {
    {"2.6.7 credit is used", OUT_UP, send_3, "flow handle=0 count=0 credit=2", SENT(0) SENT(1), "room out 2\n"},
    {"2.6.7 and more of it", OUT_UP "flow handle=0 count=0 credit=2\n", send_3, "flow handle=0 count=2 credit=2",
     SENT(2), "room out 2\n"},
    {"2.6.7 that was in flight", OUT_UP "flow handle=0 count=0 credit=2\n", send_3, "flow handle=0 count=0 credit=2",
     "", ""},
    {"2.6.7 given before attach was answered", OUT_UP, send_3, "flow handle=0 credit=2", SENT(0) SENT(1),
     "room out 2\n"},
    {"2.6.7 drain", OUT_UP, send_3, "flow handle=0 count=0 credit=5 drain",
     SENT(0) SENT(1) SENT(2) "flow next-in=0 window=8192 next-out=3 handle=0 count=5 credit=0 drain\n",
     "room out 5 drain\n"},
    {"2.6.7 drain with no credit", OUT_UP, NULL, "flow handle=0 count=0 credit=0 drain",
     "flow next-in=0 window=8192 next-out=0 handle=0 count=0 credit=0 drain\n", "room out 0 drain\n"},
    {"2.5.6 the window is used", OUT_UP, send_3, "flow window=2 next-in=0 handle=0 count=0 credit=5", SENT(0) SENT(1),
     "room out 5\n"},
    {"2.5.6 and opens", OUT_UP "flow window=2 next-in=0 handle=0 count=0 credit=5\n", send_3, "flow window=9 next-in=2",
     SENT(2), "room out 3\n"},
    {"2.5.6 what is in flight counts", OUT_UP "flow window=2 next-in=0 handle=0 count=0 credit=5\n", send_3,
     "flow window=2 next-in=0", "", ""},
    {"2.7.1 in frames that the peer can take",
     "header amqp\nopen container=c max-frame=512\nbegin\nattach name=out handle=0 source=/s\n", send_big, CREDIT,
     "transfer handle=0 id=0 tag=4 format=0 more 482 bytes\ntransfer handle=0 id=0 tag=4 format=0 more 482 bytes\n"
     "transfer handle=0 id=0 tag=4 format=0 36 bytes\n",
     "room out 10\n"},
    {"2.5.6 a message that the window cuts",
     "header amqp\nopen container=c max-frame=512\nbegin window=1\nattach name=out handle=0 source=/s\n"
     "flow window=1 next-in=0 handle=0 count=0 credit=10\n",
     send_big, "flow window=1 next-in=1\nflow window=1 next-in=2",
     "transfer handle=0 id=0 tag=4 format=0 more 482 bytes\ntransfer handle=0 id=0 tag=4 format=0 36 bytes\n", ""},
    {"2.6.12 settled by us", OUT_UP, send_settled, CREDIT "disposition receiver first=0 settled accepted",
     "transfer handle=0 id=0 tag=4 format=0 settled 100 bytes\n", "room out 10\n"},
    {"2.6.12 accepted", OUT_2, send_3, "disposition receiver first=0 last=2 settled accepted", "",
     "outcome 0 of 0 accepted settled \noutcome 1 of 1 accepted settled \noutcome 2 of 2 accepted settled \n"},
    {"3.4.3 rejected", OUT_2, send_3, "disposition receiver first=1 settled rejected=amqp:decode-error", "",
     "outcome 1 of 1 rejected settled amqp:decode-error\n"},
    {"3.4.4 released", OUT_2, send_3, "disposition receiver first=2 settled released", "",
     "outcome 2 of 2 released settled \n"},
    {"3.4.5 modified", OUT_2, send_3, "disposition receiver first=2 settled modified", "",
     "outcome 2 of 2 modified settled \n"},
    {"2.6.12 settled without an outcome", OUT_2, send_3, "disposition receiver first=0 settled", "",
     "outcome 0 of 0 none settled \n"},
    {"3.4.1 on its way", OUT_2, send_3, "disposition receiver first=0 received", "", ""},
    {"2.6.12 the receiver settles second", OUT_2, send_3, "disposition receiver first=0 last=1 accepted",
     "disposition sender first=0 last=1 settled accepted\n", "outcome 0 of 0 accepted \noutcome 1 of 1 accepted \n"},
    {"Node's second answer", OUT_2 "disposition receiver first=0 settled accepted\n", send_3,
     "disposition receiver first=0 settled accepted", "", ""},
    {"of what nobody waits for", OUT_2 "disposition receiver first=0 settled accepted\n", send_3,
     "disposition receiver first=0 accepted", "disposition sender first=0 last=0 settled accepted\n", ""},
    {"of what was never sent", OUT_2, send_3, "disposition receiver first=7 last=4000000 accepted", "", ""},
    {"2.7.6 last before first", OUT_2, send_3, "disposition receiver first=3 last=2 accepted",
     "end error=amqp:invalid-field\n", "detached out amqp:invalid-field\n"},
    {"2.5.6 it has seen what was not sent", OUT_UP "flow window=1 next-in=0 handle=0 count=0 credit=9\n", send_3,
     "flow window=1 next-in=7", SENT(1), "room out 8\n"},
    {"ids are of the session", OUT_2 "begin ch=1\n", send_3, "disposition ch=1 receiver first=0 settled accepted", "",
     ""},
};

/* ---- running them ----------------------------------------------------------------------------------------------- */

enum { WHOLE, ONE_BY_ONE, RANDOM, MODES };

static nv_manual_clock clock_;
static amqp_owner owner;

static void give(const nv_buf *bytes, int mode, uint32_t seed)
{
    nv_span left = nv_buf_span(bytes);
    while (left.len > 0) {
        seed = seed * 1664525u + 1013904223u;
        size_t len = mode == WHOLE ? left.len : mode == ONE_BY_ONE ? 1 : 1 + (seed >> 16) % 40;
        amqp_end_give(&owner.end, nv_span_first(left, len));
        left = nv_span_skip(left, len);
    }
}

static void begin_rule(const rule *r, int mode)
{
    nv_buf before;
    nv_manual_clock_init(&clock_, 0);
    amqp_owner_server(&owner, &clock_.clock, NULL);
    if (r->setup) {
        r->setup(&owner);
    }
    nv_buf_init(&before, 1u << 20);
    amqp_script_put(&before, r->before);
    give(&before, mode, 1);
    nv_buf_deinit(&before);
    assert_false(owner.ended);
    nv_buf_clear(&owner.end.out);
    nv_buf_clear(&owner.log);
}

static void check(const rule *r, int mode)
{
    nv_buf in;
    nv_buf out;
    nv_buf_init(&in, 1u << 20);
    nv_buf_init(&out, 1u << 20);
    amqp_script_put(&in, r->in);
    begin_rule(r, mode);
    give(&in, mode, 2);
    amqp_script_say(nv_buf_span(&owner.end.out), &out);
    nv_ignore(nv_buf_append_str(&out, owner.conn.session.closing ? "closed\n" : ""));
    nv_ignore(nv_buf_append(&out, nv_span_of("", 1)));
    const char *said = (const char *)nv_buf_span(&out).ptr;
    if (strcmp(said, r->out) != 0) {
        print_message("-- %s (mode %d)\n", r->clause, mode);
    }
    assert_string_equal(said, r->out);
    if (r->log) {
        if (strcmp(amqp_owner_log(&owner), r->log) != 0) {
            print_message("-- %s (mode %d)\n", r->clause, mode);
        }
        assert_string_equal(amqp_owner_log(&owner), r->log);
    }
    amqp_owner_deinit(&owner);
    nv_buf_deinit(&out);
    nv_buf_deinit(&in);
}

/* The transport goes after each byte: everything is released, whoever is told. */
static void cut(const rule *r)
{
    nv_buf in;
    nv_buf_init(&in, 1u << 20);
    amqp_script_put(&in, r->in);
    for (size_t len = 0; len < nv_buf_len(&in) && len < 300; len++) {
        begin_rule(r, WHOLE);
        amqp_end_give(&owner.end, nv_span_first(nv_buf_span(&in), len));
        amqp_owner_deinit(&owner);
    }
    nv_buf_deinit(&in);
}

static void run(const rule *rules, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        for (int mode = WHOLE; mode < MODES; mode++) {
            check(&rules[i], mode);
        }
        cut(&rules[i]);
    }
}

/* Each frame that is said is looked at for missing fields. conformance: amqp.md 4, 56 */
static void test_headers(void **state)
{
    (void)state;
    run(header_rules, NV_COUNT_OF(header_rules));
}

/* conformance: amqp.md 10 */
static void test_open(void **state)
{
    (void)state;
    run(open_rules, NV_COUNT_OF(open_rules));
}

static void test_sessions(void **state)
{
    (void)state;
    run(session_rules, NV_COUNT_OF(session_rules));
}

/* conformance: amqp.md 25, 26, 55 */
static void test_links(void **state)
{
    (void)state;
    run(link_rules, NV_COUNT_OF(link_rules));
}

static void test_receiving(void **state)
{
    (void)state;
    run(receive_rules, NV_COUNT_OF(receive_rules));
}

/* conformance: amqp.md 32, 53, 58 */
static void test_sending(void **state)
{
    (void)state;
    run(send_rules, NV_COUNT_OF(send_rules));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers), cmocka_unit_test(test_open),      cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_links),   cmocka_unit_test(test_receiving), cmocka_unit_test(test_sending),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
