// How bytes get from rank to rank: the part of a communicator that differs between threads and MPI.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

namespace sepia::dist {

class Transport {
 public:
  virtual ~Transport() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Sends outgoing[r] to rank r and fills incoming[r] with what rank r sends here, for all other
  // ranks r; blocks until both are done. Entries of this rank are ignored, empty ones skipped.
  // Sender and receiver agree on sizes. The same memory may not be sent and filled.
  virtual void Exchange(std::span<const std::span<const std::byte>> outgoing,
                        std::span<const std::span<std::byte>> incoming) = 0;

  // Collective: ranks with equal `color` form a new group, ordered by `key`.
  virtual std::unique_ptr<Transport> Split(int color, int key) = 0;

  [[noreturn]] virtual void Abort(int exit_code) = 0;
};

}  // namespace sepia::dist
