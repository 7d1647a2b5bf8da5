// How OpenMP's threads wait for work, and where they run.
#pragma once

namespace sepia::tools {

// Where the user has OpenMP's threads bound (OMP_PROC_BIND, OMP_PLACES), libgomp ties the main
// thread to the first place while it is loaded, and everything that the main thread starts would
// inherit that one place: the loader, the checkpoint writer, and this very program when it is
// started once more, which would then know no other processor. Gives the main thread all places
// back; the other threads of a team stay bound to theirs. Call before all below.
void UnbindMainThread();

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
