/** `nave bench` as a program of its own: the generator of bench/compare without the hub around it. */
#include "nave/bench/bench.h"

int main(int argc, char **argv)
{
    return nv_bench_main(argc, argv);
}
