/**
 * `nave bench`: the load generator, and the smallest server it can be measured against.
 *
 * The generator must cost less than what it measures, so it is one thread on raw epoll, non-blocking sockets and
 * OpenSSL, and shares no code path with the hub: one large read and one write per connection and wake, PUBLISH bytes
 * built once where only the packet id changes. This is the one folder beside net/ that includes openssl/ssl.h.
 */
#ifndef NV_NAVE_BENCH_BENCH_H
#define NV_NAVE_BENCH_BENCH_H

/**
 * Run one subcommand: argv[1] is its name (mqtt, amqp, sink, disk, log). Figures go to stdout, words to stderr.
 * Blocks: until the measurement ends. Call once per process: it sets signal dispositions.
 * @return the exit code: 0 measured, 1 refused or failed (the figures say how often and why), 2 usage
 */
int nv_bench_main(int argc, char **argv);

#endif
