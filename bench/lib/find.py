"""Where the build put the programs."""
import os

from .process import Failure


def find_program(build, *places):
    for place in places:
        path = os.path.join(build, place)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def find_nave(build, need_hub=False):
    """@return (path of nave or None, argv of the generator)"""
    nave = find_program(build, "nave", "src/nave/nave", "bin/nave")
    alone = find_program(build, "src/nave/bench/nave-bench")
    if not nave and not alone:
        raise Failure("neither nave nor its generator is in %s; build first: scripts/build release" % build)
    if need_hub and not nave:
        raise Failure("nave is not in %s; build first: scripts/build release" % build)
    return nave, [nave, "bench"] if nave else [alone]
