// The stand-in of NCCL. Operations take place when a group ends, in the calling thread, which waits
// for its peers; on a late stream (../streams.h) when the stream comes to them. Everything is made
// of messages between two ranks; reductions round to the dtype at every step and start at another
// rank for every element, as a ring does, so that code which relies on their order fails here.
//
// Refused as NVIDIA documents: ranks, roots, peers, dtypes out of range and missing memory
// (InvalidArgument), use of a communicator before all ranks have joined or after an error, and
// another process (InvalidUsage). Messages whose sizes differ, which on hardware hang or corrupt
// memory, are Faults.
#include <nccl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/dtype.h"
#include "kernels/cuda/emulation/libraries/device_range.h"
#include "kernels/cuda/emulation/streams.h"

namespace {

using sepia::BFloat16;
using sepia::Float16;
using sepia::kernels::cuda::emulation::Fault;
using sepia::kernels::cuda::emulation::IsPutOff;
using sepia::kernels::cuda::emulation::RequireOnDevice;
using sepia::kernels::cuda::emulation::RunOnStream;
using sepia::kernels::cuda::emulation::WorkKind;
using Message = std::vector<char>;

std::atomic<int> broken_rank{-1};
std::atomic<ncclResult_t> broken_error{ncclSuccess};

// The ranks that share a unique id.
struct Clique {
  std::mutex mutex;
  std::condition_variable changed;
  int joined = 0;
  std::map<std::pair<int, int>, std::deque<Message>> mail;  // by (from, to)
};

struct IdContents {
  pid_t process;
  uint64_t number;
};

std::shared_ptr<Clique> CliqueOf(uint64_t number) {
  static std::mutex mutex;
  static std::map<uint64_t, std::weak_ptr<Clique>> cliques;
  const std::lock_guard lock(mutex);
  std::shared_ptr<Clique> clique = cliques[number].lock();
  if (clique == nullptr) cliques[number] = clique = std::make_shared<Clique>();
  return clique;
}

size_t SizeOf(ncclDataType_t type) {
  switch (type) {
    case ncclUint8: return 1;
    case ncclFloat16:
    case ncclBfloat16: return 2;
    case ncclInt32:
    case ncclFloat32: return 4;
    case ncclInt64:
    case ncclFloat64: return 8;
  }
  return 0;
}

template <typename T, typename Wide = T>
void CombineAs(ncclRedOp_t op, void* into, const void* from, size_t at) {
  T& a = static_cast<T*>(into)[at];
  const Wide x = static_cast<Wide>(a), y = static_cast<Wide>(static_cast<const T*>(from)[at]);
  a = static_cast<T>(op == ncclSum ? x + y : op == ncclMin ? std::min(x, y) : std::max(x, y));
}

void Combine(ncclDataType_t type, ncclRedOp_t op, void* into, const void* from, size_t at) {
  switch (type) {
    case ncclInt32: return CombineAs<int32_t>(op, into, from, at);
    case ncclInt64: return CombineAs<int64_t>(op, into, from, at);
    case ncclFloat32: return CombineAs<float>(op, into, from, at);
    case ncclFloat64: return CombineAs<double>(op, into, from, at);
    case ncclFloat16: return CombineAs<Float16, float>(op, into, from, at);
    case ncclBfloat16: return CombineAs<BFloat16, float>(op, into, from, at);
    default: return CombineAs<uint8_t>(op, into, from, at);
  }
}

// One call of a group: sends first, then receives.
struct Operation {
  std::function<void()> send;
  std::function<ncclResult_t()> receive;
};

}  // namespace

struct ncclComm {
  std::shared_ptr<Clique> clique;
  int rank, ranks;
  std::atomic<bool> aborted{false}, polled{true};
  std::atomic<ncclResult_t> error{ncclSuccess};

  bool IsReady() const {
    const std::lock_guard lock(clique->mutex);
    return clique->joined == ranks;
  }

  void Send(int to, const void* from, size_t bytes) {
    const auto* begin = static_cast<const char*>(from);
    {
      const std::lock_guard lock(clique->mutex);
      clique->mail[{rank, to}].emplace_back(begin, begin + bytes);
    }
    clique->changed.notify_all();
  }

  // Empty when the communicator is aborted meanwhile.
  std::unique_ptr<Message> Receive(int from) {
    std::unique_lock lock(clique->mutex);
    auto& box = clique->mail[{from, rank}];
    clique->changed.wait(lock, [&] { return aborted || (!box.empty() && error == ncclSuccess); });
    if (aborted) return nullptr;
    auto message = std::make_unique<Message>(std::move(box.front()));
    box.pop_front();
    return message;
  }

  ncclResult_t ReceiveInto(int from, void* to, size_t bytes) {
    const auto message = Receive(from);
    if (message == nullptr) return ncclInternalError;
    if (message->size() != bytes) {
      throw Fault("NCCL: rank " + std::to_string(rank) + " expects " + std::to_string(bytes) +
                  " bytes of rank " + std::to_string(from) + ", which sends " +
                  std::to_string(message->size()));
    }
    std::memcpy(to, message->data(), bytes);
    return ncclSuccess;
  }
};

namespace {

thread_local int group_depth = 0;
thread_local std::vector<Operation> group;
thread_local std::vector<ncclComm*> group_comms;
thread_local cudaStream_t group_stream = nullptr;  // one a group, as Sepia calls it

ncclResult_t Run(const std::vector<Operation>& operations) {
  for (const Operation& operation : operations) operation.send();
  for (const Operation& operation : operations) {
    const ncclResult_t result = operation.receive();
    if (result != ncclSuccess) return result;
  }
  return ncclInProgress;
}

ncclResult_t RunGroup() {
  const std::vector<Operation> operations = std::move(group);
  group.clear();
  for (ncclComm* comm : group_comms) {
    comm->polled = false;
    if (comm->rank == broken_rank) comm->error = broken_error.load();
  }
  group_comms.clear();
  if (operations.empty()) return ncclSuccess;
  if (!IsPutOff(group_stream)) return Run(operations);
  // Of a collective that was aborted meanwhile the communicator's error tells.
  RunOnStream(group_stream, WorkKind::kLibrary,
              [operations] { static_cast<void>(Run(operations)); });
  return ncclInProgress;
}

ncclResult_t Enqueue(ncclComm* comm, cudaStream_t stream, Operation operation) {
  if (comm->error != ncclSuccess || comm->aborted || !comm->IsReady()) return ncclInvalidUsage;
  if (!group.empty() && stream != group_stream) {
    throw Fault("NCCL: a group of calls on several streams, which the stand-in does not know");
  }
  group_stream = stream;
  group.push_back(std::move(operation));
  group_comms.push_back(comm);
  return group_depth > 0 ? ncclSuccess : RunGroup();
}

bool IsValid(const ncclComm* comm, ncclDataType_t type, size_t count, const void* a,
             const void* b) {
  return comm != nullptr && SizeOf(type) > 0 && (count == 0 || (a != nullptr && b != nullptr));
}

// Every rank sends `part(r)` to each rank r and handles what came from each rank, itself included.
Operation ExchangeAll(ncclComm* comm, size_t bytes, std::function<const char*(int)> part,
                      std::function<void(std::vector<Message>&)> handle) {
  return {[=] {
            for (int r = 0; r < comm->ranks; ++r) comm->Send(r, part(r), bytes);
          },
          [=] {
            std::vector<Message> messages;
            for (int r = 0; r < comm->ranks; ++r) {
              Message message(bytes);
              const ncclResult_t result = comm->ReceiveInto(r, message.data(), bytes);
              if (result != ncclSuccess) return result;
              messages.push_back(std::move(message));
            }
            handle(messages);
            return ncclSuccess;
          }};
}

// Element i is reduced around the ring from rank i % ranks on.
void ReduceAround(std::vector<Message>& parts, size_t count, ncclDataType_t type, ncclRedOp_t op,
                  void* to) {
  const size_t ranks = parts.size(), size = SizeOf(type);
  for (size_t i = 0; i < count; ++i) {
    Message& first = parts[i % ranks];
    for (size_t step = 1; step < ranks; ++step) {
      Combine(type, op, first.data(), parts[(i + step) % ranks].data(), i);
    }
    std::memcpy(static_cast<char*>(to) + i * size, first.data() + i * size, size);
  }
}

}  // namespace

namespace sepia::kernels::cuda::emulation {

void BreakNcclRank(int rank, ncclResult_t error) {
  broken_error = error;
  broken_rank = rank;
}

}  // namespace sepia::kernels::cuda::emulation

ncclResult_t ncclGetVersion(int* version) {
  *version = 0;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess: return "no error";
    case ncclUnhandledCudaError: return "unhandled cuda error";
    case ncclSystemError: return "unhandled system error";
    case ncclInternalError: return "internal error";
    case ncclInvalidArgument: return "invalid argument";
    case ncclInvalidUsage: return "invalid usage";
    case ncclRemoteError: return "remote process exited or there was a network error";
    default: return "NCCL operation in progress";
  }
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static std::atomic<uint64_t> last{0};
  const IdContents contents{getpid(), ++last};
  *id = {};
  std::memcpy(id->internal, &contents, sizeof(contents));
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  IdContents contents;
  std::memcpy(&contents, id.internal, sizeof(contents));
  if (comm == nullptr || ranks < 1 || rank < 0 || rank >= ranks) return ncclInvalidArgument;
  if (contents.process != getpid() || config == nullptr || config->blocking != 0) {
    return ncclInvalidUsage;
  }
  *comm = new ncclComm{.clique = CliqueOf(contents.number), .rank = rank, .ranks = ranks};
  const std::lock_guard lock((*comm)->clique->mutex);
  ++(*comm)->clique->joined;
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  delete comm;
  return ncclSuccess;
}

// The memory stays: the rank's own thread may be inside an operation.
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  {
    const std::lock_guard lock(comm->clique->mutex);
    comm->aborted = true;
  }
  comm->clique->changed.notify_all();
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  if (comm == nullptr || error == nullptr) return ncclInvalidArgument;
  *error = comm->error;
  // In progress until all ranks have joined, and once after every operation.
  if (*error == ncclSuccess && (!comm->IsReady() || !comm->polled.exchange(true))) {
    *error = ncclInProgress;
  }
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++group_depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (group_depth == 0) return ncclInvalidUsage;
  return --group_depth > 0 ? ncclSuccess : RunGroup();
}

ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  if (!IsValid(comm, type, count, from, from) || peer < 0 || peer >= comm->ranks) {
    return ncclInvalidArgument;
  }
  const size_t bytes = count * SizeOf(type);
  RequireOnDevice("ncclSend", "the data", from, bytes);
  return Enqueue(comm, stream,
                 {[=] { comm->Send(peer, from, bytes); }, [] { return ncclSuccess; }});
}

ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  if (!IsValid(comm, type, count, to, to) || peer < 0 || peer >= comm->ranks) {
    return ncclInvalidArgument;
  }
  const size_t bytes = count * SizeOf(type);
  RequireOnDevice("ncclRecv", "the data", to, bytes);
  return Enqueue(comm, stream, {[] {}, [=] { return comm->ReceiveInto(peer, to, bytes); }});
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  if (!IsValid(comm, type, count, from, to)) return ncclInvalidArgument;
  const size_t bytes = count * SizeOf(type);
  RequireOnDevice("ncclAllReduce", "the input", from, bytes);
  RequireOnDevice("ncclAllReduce", "the output", to, bytes);
  return Enqueue(
      comm, stream,
      ExchangeAll(
          comm, bytes, [=](int) { return static_cast<const char*>(from); },
          [=](std::vector<Message>& parts) { ReduceAround(parts, count, type, op, to); }));
}

ncclResult_t ncclReduceScatter(const void* from, void* to, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  if (!IsValid(comm, type, count, from, to)) return ncclInvalidArgument;
  const size_t bytes = count * SizeOf(type);
  RequireOnDevice("ncclReduceScatter", "the input", from, bytes * static_cast<size_t>(comm->ranks));
  RequireOnDevice("ncclReduceScatter", "the output", to, bytes);
  const auto part = [=](int r) {
    return static_cast<const char*>(from) + static_cast<size_t>(r) * bytes;
  };
  return Enqueue(comm, stream, ExchangeAll(comm, bytes, part, [=](std::vector<Message>& parts) {
                   ReduceAround(parts, count, type, op, to);
                 }));
}

ncclResult_t ncclAllGather(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  if (!IsValid(comm, type, count, from, to)) return ncclInvalidArgument;
  const size_t bytes = count * SizeOf(type);
  RequireOnDevice("ncclAllGather", "the input", from, bytes);
  RequireOnDevice("ncclAllGather", "the output", to, bytes * static_cast<size_t>(comm->ranks));
  return Enqueue(comm, stream,
                 ExchangeAll(
                     comm, bytes, [=](int) { return static_cast<const char*>(from); },
                     [=](std::vector<Message>& parts) {
                       for (size_t r = 0; r < parts.size(); ++r) {
                         std::memcpy(static_cast<char*>(to) + r * bytes, parts[r].data(), bytes);
                       }
                     }));
}

ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  if (!IsValid(comm, type, count, to, to) || root < 0 || root >= comm->ranks) {
    return ncclInvalidArgument;
  }
  const size_t bytes = count * SizeOf(type);
  RequireOnDevice("ncclBroadcast", "the output", to, bytes);
  return Enqueue(comm, stream,
                 {[=] {
                    if (comm->rank != root) return;
                    for (int r = 0; r < comm->ranks; ++r) comm->Send(r, from, bytes);
                  },
                  [=] { return comm->ReceiveInto(root, to, bytes); }});
}
