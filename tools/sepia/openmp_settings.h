// How OpenMP's threads wait for work.
#pragma once

namespace sepia::tools {

// Makes libgomp's idle threads go to sleep after a few microseconds. Its own choice is to spin for
// some 10 ms: where other programs want the processors too, the threads that have work then wait
// for those that only spin. libgomp reads the setting while it is loaded, before main() begins, so
// this starts the program once more in the same process with GOMP_SPINCOUNT set. Does nothing when
// the user has set GOMP_SPINCOUNT or OMP_WAIT_POLICY, which is also how the second start ends it.
//
// Call first in main(). `argv` as main got it. Returns, with no effect, where the system refuses.
void LimitOpenMpSpinning(char** argv);

// Where mpirun has started several processes on this machine and tied none of them to processors of
// its own (--bind-to none), gives each its share of threads by setting OMP_NUM_THREADS. Does
// nothing when that is set already. Call before LimitOpenMpSpinning.
void ShareProcessorsAmongRanks();

}  // namespace sepia::tools
