#include "kernels/cuda/emulation/thread_block.h"

#include <bit>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>

#include "kernels/cuda/emulation/global_memory.h"

namespace sepia::kernels::cuda::emulation {
namespace {

constexpr size_t kWarpSize = 32;

thread_local ThreadBlock* current_block = nullptr;

std::string Describe(const Site& site) {
  return std::string(site.file) + ":" + std::to_string(site.line);
}

bool IsSame(const Site& a, const Site& b) {
  return a.line == b.line && std::strcmp(a.file, b.file) == 0;
}

uint64_t LogKey(const Site& site) {
  const auto file = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(site.file));
  return ((file >> 4 & 0xffff) << 16) + static_cast<uint64_t>(site.line);
}

}  // namespace

Options& MutableOptions() {
  thread_local Options options;
  return options;
}

std::map<std::string, Counters>& AllCounters() {
  thread_local std::map<std::string, Counters> counters;
  return counters;
}

void ResetCounters() { AllCounters().clear(); }

ThreadBlock::ThreadBlock() = default;

ThreadBlock& ThreadBlock::Current() { return *current_block; }

void ThreadBlock::RunGrid(const LaunchShape& shape, const std::function<void()>& kernel) {
  if (shape.block == 0 || shape.block % kWarpSize != 0 || shape.block > 1024) {
    throw Fault(std::string(shape.name) + ": " + std::to_string(shape.block) +
                " threads are no whole number of warps up to 1024");
  }
  thread_local const std::unique_ptr<ThreadBlock> block(new ThreadBlock);
  block->shape_ = &shape;
  block->kernel_ = &kernel;
  block->options_ = MutableOptions();
  block->counters_ = &AllCounters()[shape.name];
  block->random_state_ = block->options_.seed * 0x9e3779b97f4a7c15u + 1;
  current_block = block.get();
  for (const uint64_t i : block->BlockOrder()) {
    const uint64_t x = i % shape.grid.x, y = i / shape.grid.x % shape.grid.y;
    const uint64_t z = i / shape.grid.x / shape.grid.y;
    block->Run({static_cast<uint32_t>(x), static_cast<uint32_t>(y), static_cast<uint32_t>(z)});
  }
}

// Hardware promises no order of blocks; seed 0 takes them as they are numbered.
std::vector<uint64_t> ThreadBlock::BlockOrder() {
  const Dim3& grid = shape_->grid;
  std::vector<uint64_t> order(uint64_t{grid.x} * grid.y * grid.z);
  std::iota(order.begin(), order.end(), uint64_t{0});
  if (options_.seed == 0) return order;
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[Random() % i]);
  return order;
}

void ThreadBlock::Run(const Dim3& index) {
  index_ = index;
  shared_.StartBlock(shape_->shared_bytes);
  stacks_.Reserve(shape_->block);
  lanes_.assign(shape_->block, Lane());
  warps_.assign(shape_->block / kWarpSize, Warp());
  for (Warp& warp : warps_) warp.ready = ~0u;
  for (size_t i = 0; i < lanes_.size(); ++i) {
    lanes_[i].thread = static_cast<int>(i);
    lanes_[i].stack_pointer = stacks_.Prepare(i, &RunLane);
  }
  num_done_ = at_barrier_ = 0;
  fault_ = nullptr;
  lane_ = nullptr;
  lane_ = NextReady();
  SepiaSwitchStack(&host_stack_, lane_->stack_pointer);
  if (fault_) std::rethrow_exception(fault_);
  if (num_done_ != lanes_.size()) throw Fault(DescribeStuck());
  if (options_.count_memory) access_log_.Finish(*counters_);
  ++counters_->blocks;
}

// The bottom of every fiber: a fault ends the block, so the other fibers are never resumed.
void ThreadBlock::RunLane() {
  ThreadBlock& block = Current();
  try {
    (*block.kernel_)();
  } catch (...) {
    block.fault_ = std::current_exception();
  }
  if (block.fault_) SepiaSwitchStack(&block.lane_->stack_pointer, block.host_stack_);
  block.lane_->state = Lane::State::kDone;
  ++block.num_done_;
  block.SwitchAway();
}

uint32_t ThreadBlock::Random() {  // xorshift64*
  random_state_ ^= random_state_ >> 12;
  random_state_ ^= random_state_ << 25;
  random_state_ ^= random_state_ >> 27;
  return static_cast<uint32_t>((random_state_ * 0x2545f4914f6cdd1du) >> 32);
}

// Mostly the running warp goes on; one time in eight another is tried first.
Lane* ThreadBlock::NextReady() {
  const uint32_t random = Random();
  const size_t num_warps = warps_.size();
  size_t first = lane_ == nullptr ? 0 : static_cast<size_t>(lane_->thread) / kWarpSize;
  if (random % 8 == 0) first = (random >> 8) % num_warps;
  for (size_t i = 0; i < num_warps; ++i) {
    const size_t warp = (first + i) % num_warps;
    const uint32_t ready = warps_[warp].ready;
    if (ready == 0) continue;
    const int turn = static_cast<int>(random >> 27);
    const int bit = (std::countr_zero(std::rotr(ready, turn)) + turn) % 32;
    warps_[warp].ready &= ~(1u << bit);
    return &lanes_[warp * kWarpSize + static_cast<size_t>(bit)];
  }
  return nullptr;
}

void ThreadBlock::SwitchAway() {
  Lane* from = lane_;
  lane_ = NextReady();
  if (lane_ == from) return;
  void* const resume = lane_ == nullptr ? host_stack_ : lane_->stack_pointer;
  SepiaSwitchStack(&from->stack_pointer, resume);
}

void ThreadBlock::Wake(size_t warp) {
  for (size_t i = 0; i < kWarpSize; ++i) {
    lanes_[warp * kWarpSize + i].state = Lane::State::kReady;
  }
  warps_[warp].ready = ~0u;
}

void ThreadBlock::Collective(const char* name, Execute execute, Site site) {
  const size_t w = static_cast<size_t>(lane_->thread) / kWarpSize;
  Warp& warp = warps_[w];
  if (warp.arrived == 0) {
    warp.collective = name;
    warp.site = site;
  } else if (warp.collective != name || !IsSame(warp.site, site)) {
    Refuse(std::string("divergent warp: ") + name + " while other lanes are in " + warp.collective +
               " at " + Describe(warp.site),
           site);
  }
  if (++warp.arrived == static_cast<int>(kWarpSize)) {
    warp.arrived = 0;
    execute(&lanes_[w * kWarpSize]);
    Wake(w);
    warp.ready &= ~(1u << (lane_->thread % static_cast<int>(kWarpSize)));
    return;
  }
  lane_->state = Lane::State::kAtCollective;
  lane_->waits_in = name;
  lane_->waits_at = site;
  SwitchAway();
}

void ThreadBlock::Barrier(Site site) {
  if (at_barrier_ == 0) {
    barrier_site_ = site;
  } else if (!IsSame(barrier_site_, site)) {
    Refuse("divergent barrier: other threads wait in the one at " + Describe(barrier_site_), site);
  }
  lane_->state = Lane::State::kAtBarrier;
  lane_->waits_in = "SyncThreads";
  lane_->waits_at = site;
  if (++at_barrier_ == lanes_.size()) {
    at_barrier_ = 0;
    ++counters_->barriers;
    shared_.PassBarrier();
    for (size_t w = 0; w < warps_.size(); ++w) Wake(w);
  }
  SwitchAway();
}

std::string ThreadBlock::DescribeStuck() const {
  std::string text = std::string(shape_->name) + ": block " + std::to_string(index_.x) + "," +
                     std::to_string(index_.y) + "," + std::to_string(index_.z) +
                     " is stuck: " + std::to_string(num_done_) + " of " +
                     std::to_string(lanes_.size()) + " threads have ended";
  for (const Lane& lane : lanes_) {
    if (lane.state == Lane::State::kDone) continue;
    return text + "; thread " + std::to_string(lane.thread) + " waits in " + lane.waits_in +
           " at " + Describe(lane.waits_at);
  }
  return text;
}

void ThreadBlock::Refuse(const std::string& what, Site site) const {
  throw Fault(std::string(shape_->name) + ": " + Describe(site) + ": thread " +
              std::to_string(lane_->thread) + " of block " + std::to_string(index_.x) + "," +
              std::to_string(index_.y) + "," + std::to_string(index_.z) + ": " + what);
}

void ThreadBlock::StartAsyncCopy(void* to, const void* from, bool valid, uint32_t num_bytes,
                                 Site site) {
  if (valid) CheckGlobal("asynchronous copy", from, num_bytes, site);
  CheckSharedRange("asynchronous copy", to, num_bytes, site);
  if (const char* fault = shared_.StartAsyncWrite(lane_->thread, to, num_bytes)) {
    Refuse(std::string("asynchronous copy ") + fault, site);
  }
  if (lane_->thread % static_cast<int>(kWarpSize) == 0) ++counters_->async_copies;
  if (options_.count_memory) {
    access_log_.Add(lane_->thread, LogKey(site) ^ 0x8000, true, reinterpret_cast<uintptr_t>(to),
                    num_bytes);
  }
  const Lane::AsyncCopy copy = {to, valid ? from : nullptr, num_bytes, lane_->open_group};
  lane_->async_copies.push_back(copy);
  const bool at_once = options_.async_copies == AsyncCopies::kAtOnce ||
                       (options_.async_copies == AsyncCopies::kRandom && Random() % 2 == 0);
  if (at_once) FinishCopy(copy);
}

// Moves the bytes; the shadow keeps the copy unfinished until its thread has waited.
void ThreadBlock::FinishCopy(const Lane::AsyncCopy& copy) {
  if (copy.from == nullptr) {
    std::memset(copy.to, 0, copy.num_bytes);
  } else {
    std::memcpy(copy.to, copy.from, copy.num_bytes);
  }
}

void ThreadBlock::WaitAsyncCopies(int pending_groups) {
  auto& copies = lane_->async_copies;
  size_t finished = 0;
  while (finished < copies.size() && copies[finished].group < lane_->open_group - pending_groups) {
    const Lane::AsyncCopy& copy = copies[finished++];
    FinishCopy(copy);
    shared_.FinishAsyncWrite(lane_->thread, copy.to, copy.num_bytes);
  }
  copies.erase(copies.begin(), copies.begin() + static_cast<std::ptrdiff_t>(finished));
}

void ThreadBlock::CheckGlobal(const char* what, const void* address, uint32_t num_bytes,
                              Site site) {
  if (reinterpret_cast<uintptr_t>(address) % num_bytes != 0) {
    Refuse(std::string(what) + " of " + std::to_string(num_bytes) +
               " bytes at a misaligned global address",
           site);
  }
  if (!GlobalMemory::Get().Contains(address, num_bytes)) {
    Refuse(std::string(what) + " outside every allocation", site);
  }
  if (options_.count_memory) {
    access_log_.Add(lane_->thread, LogKey(site), false, reinterpret_cast<uintptr_t>(address),
                    num_bytes);
  }
}

void ThreadBlock::CheckSharedRange(const char* what, const void* address, uint32_t num_bytes,
                                   Site site) {
  if (reinterpret_cast<uintptr_t>(address) % num_bytes != 0) {
    Refuse(std::string(what) + " of " + std::to_string(num_bytes) +
               " bytes at a misaligned shared address",
           site);
  }
  if (!shared_.Contains(address, num_bytes)) {
    Refuse(std::string(what) + " outside the shared memory of the launch", site);
  }
}

void ThreadBlock::CheckSharedRead(const void* address, uint32_t num_bytes, Site site, bool log) {
  CheckSharedRange("read", address, num_bytes, site);
  if (const char* fault = shared_.Read(lane_->thread, address, num_bytes)) Refuse(fault, site);
  if (log && options_.count_memory) {
    access_log_.Add(lane_->thread, LogKey(site), true, reinterpret_cast<uintptr_t>(address),
                    num_bytes);
  }
}

void ThreadBlock::CheckSharedWrite(const void* address, uint32_t num_bytes, Site site) {
  CheckSharedRange("write", address, num_bytes, site);
  if (const char* fault = shared_.Write(lane_->thread, address, num_bytes)) Refuse(fault, site);
  if (options_.count_memory) {
    access_log_.Add(lane_->thread, LogKey(site), true, reinterpret_cast<uintptr_t>(address),
                    num_bytes);
  }
}

}  // namespace sepia::kernels::cuda::emulation
