#include "nave/bench/amqp.h"

#include <signal.h>

int nv_bench_amqp_main(int argc, char **argv)
{
    nv_bench_amqp_options o;
    if (!nv_bench_amqp_options_parse(&o, argc, argv)) {
        return 2;
    }
    (void)signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    switch ((nv_bench_amqp_mode)o.mode) {
    case NV_BENCH_AMQP_SEND:
    case NV_BENCH_AMQP_THROUGH:
        return nv_bench_amqp_send(&o);
    case NV_BENCH_AMQP_READ:
        return nv_bench_amqp_read(&o);
    case NV_BENCH_AMQP_IDLE:
        return nv_bench_amqp_idle(&o);
    }
    return 2;
}
