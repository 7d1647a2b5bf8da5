// The rates of this machine, for `sepia plan --hardware cpu`: the trainer's own code on a short
// model, as many times at once as ranks would share the machine.
#pragma once

#include "trainer/hardware.h"
#include "trainer/settings.h"

namespace sepia::tools {

// Of one of `ranks` ranks on this machine with settings.threads threads each (which must be set);
// a share `density` of the tokens are separators. Takes some seconds.
trainer::Hardware MeasureThisMachine(const trainer::TrainSettings& settings, int ranks,
                                     double density);

}  // namespace sepia::tools
