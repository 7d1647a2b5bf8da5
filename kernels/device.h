// The device that a process runs on, for those who start a run; ops see kernels::Context only.
#pragma once

#include <string>

#include "base/tensor.h"

namespace sepia::kernels {

// Makes the device ready: tensors may then live on it (base/device_memory.h) and ops run on it. One
// device a process; ranks of a node take GPUs by turns of `local_rank`. A second call with the same
// device does nothing. Throws UserError(kEnvironment) when this build has no cuda backend or the
// machine no GPU.
void OpenDevice(Device device, int local_rank = 0);

// Whether this build has a backend for the device; the machine may have no GPU still.
bool HasBackend(Device device);

// Waits for all work enqueued on the device; throws what it failed with.
void Synchronize(Device device);

// "NVIDIA A100-SXM4-80GB, sm_80, 80.0 GiB", for the header block and doctor; of an opened device.
// The host has no name.
std::string DeviceName(Device device);

namespace cuda {
bool HasBackend();
void OpenDevice(int local_rank);
void Synchronize();
std::string DeviceName();
}  // namespace cuda

}  // namespace sepia::kernels
