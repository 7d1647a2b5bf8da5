#include "dist/thread_ranks.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "dist/group_communicator.h"
#include "dist/transport.h"

namespace sepia::dist {
namespace {

class LostPeer : public Error {
 public:
  LostPeer() : Error(ExitCode::kHang, "another rank has failed") {}
};

// What all ranks and groups share: one lock, and whether a rank has failed.
struct World {
  std::mutex mutex;
  std::condition_variable changed;
  bool failed = false;
  std::exception_ptr first_error;

  void Fail(std::exception_ptr error) {
    {
      const std::lock_guard lock(mutex);
      if (!failed) first_error = std::move(error);
      failed = true;
    }
    changed.notify_all();
  }
};

// What the ranks of one group show each other.
class Board {
 public:
  Board(World& world, int size) : world_(world), posts_(static_cast<size_t>(size)) {}

  // Blocks until every rank of the group has come here as often as this one. Throws LostPeer when
  // a rank has failed; `all_will_come` says that none can fail before it is here.
  void Meet(bool all_will_come) {
    std::unique_lock lock(world_.mutex);
    if (world_.failed && !all_will_come) throw LostPeer();
    const int64_t meeting = meetings_;
    if (++arrived_ == posts_.size()) {
      arrived_ = 0;
      ++meetings_;
      lock.unlock();
      world_.changed.notify_all();
      return;
    }
    world_.changed.wait(lock,
                        [&] { return meetings_ != meeting || (world_.failed && !all_will_come); });
    if (meetings_ == meeting) throw LostPeer();
  }

  // Of rank r; written by it before a Meet, read by others after it.
  std::vector<std::span<const std::byte>>& post(int r) { return posts_[static_cast<size_t>(r)]; }

  // The board of a part of this group, the same for all that ask with equal arguments.
  std::shared_ptr<Board> Part(int64_t split, int color, int size) {
    const std::lock_guard lock(world_.mutex);
    std::shared_ptr<Board>& part = parts_[{split, color}];
    if (part == nullptr) part = std::make_shared<Board>(world_, size);
    return part;
  }

 private:
  World& world_;
  std::vector<std::vector<std::span<const std::byte>>> posts_;
  size_t arrived_ = 0;
  int64_t meetings_ = 0;
  std::map<std::pair<int64_t, int>, std::shared_ptr<Board>> parts_;
};

class ThreadTransport final : public Transport {
 public:
  ThreadTransport(std::shared_ptr<Board> board, int rank, int size)
      : board_(std::move(board)), rank_(rank), size_(size) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void Exchange(std::span<const std::span<const std::byte>> outgoing,
                std::span<const std::span<std::byte>> incoming) override {
    board_->post(rank_).assign(outgoing.begin(), outgoing.end());
    board_->Meet(/*all_will_come=*/false);
    bool sizes_agree = true;
    for (int r = 0; r < size_; ++r) {
      if (r == rank_) continue;
      const auto from = board_->post(r)[static_cast<size_t>(rank_)];
      const auto to = incoming[static_cast<size_t>(r)];
      sizes_agree = sizes_agree && from.size() == to.size();
      const size_t size = std::min(from.size(), to.size());
      if (size > 0) std::memcpy(to.data(), from.data(), size);
    }
    board_->Meet(/*all_will_come=*/true);  // nobody's memory goes before all have read it
    CHECK(sizes_agree, "ranks exchange messages of different sizes");
  }

  std::unique_ptr<Transport> Split(int color, int key) override {
    using Choice = std::tuple<int, int, int>;  // color, key, rank
    std::vector<Choice> choices(static_cast<size_t>(size_));
    const Choice own{color, key, rank_};
    std::vector<std::span<const std::byte>> outgoing(static_cast<size_t>(size_),
                                                     std::as_bytes(std::span(&own, 1)));
    std::vector<std::span<std::byte>> incoming;
    for (Choice& choice : choices) {
      incoming.push_back(std::as_writable_bytes(std::span(&choice, 1)));
    }
    Exchange(outgoing, incoming);
    choices[static_cast<size_t>(rank_)] = own;
    std::erase_if(choices, [&](const Choice& choice) { return std::get<0>(choice) != color; });
    std::sort(choices.begin(), choices.end());
    const auto place = std::find(choices.begin(), choices.end(), own) - choices.begin();
    const int size = static_cast<int>(choices.size());
    return std::make_unique<ThreadTransport>(board_->Part(++splits_, color, size),
                                             static_cast<int>(place), size);
  }

  void Abort(int exit_code) override { std::_Exit(exit_code); }

 private:
  std::shared_ptr<Board> board_;
  int rank_, size_;
  int64_t splits_ = 0;
};

// A link of each group that a rank shares with no other: what it sends and what it receives take
// their time, side by side, in which the processor is free.
class ThrottledTransport final : public Transport {
 public:
  ThrottledTransport(std::unique_ptr<Transport> inner, double bytes_per_second)
      : inner_(std::move(inner)), bytes_per_second_(bytes_per_second) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }

  void Exchange(std::span<const std::span<const std::byte>> outgoing,
                std::span<const std::span<std::byte>> incoming) override {
    inner_->Exchange(outgoing, incoming);
    const auto bytes = static_cast<double>(std::max(Bytes(outgoing), Bytes(incoming)));
    std::this_thread::sleep_for(std::chrono::duration<double>(bytes / bytes_per_second_));
  }

  std::unique_ptr<Transport> Split(int color, int key) override {
    return std::make_unique<ThrottledTransport>(inner_->Split(color, key), bytes_per_second_);
  }

  void Abort(int exit_code) override { inner_->Abort(exit_code); }

 private:
  template <typename Messages>
  size_t Bytes(const Messages& messages) const {
    size_t bytes = 0;
    for (size_t r = 0; r < messages.size(); ++r) {
      if (static_cast<int>(r) != rank()) bytes += messages[r].size();
    }
    return bytes;
  }

  std::unique_ptr<Transport> inner_;
  double bytes_per_second_;
};

}  // namespace

void RunThreadRanks(int size, const std::function<void(std::unique_ptr<Communicator> world)>& body,
                    double bytes_per_second) {
  World world;
  const auto board = std::make_shared<Board>(world, size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        std::unique_ptr<Transport> transport = std::make_unique<ThreadTransport>(board, rank, size);
        if (bytes_per_second > 0) {
          transport = std::make_unique<ThrottledTransport>(std::move(transport), bytes_per_second);
        }
        body(MakeGroupCommunicator(std::move(transport), std::make_shared<FlightRecorder>(),
                                   "world"));
      } catch (...) {
        world.Fail(std::current_exception());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (world.first_error) std::rethrow_exception(world.first_error);
}

}  // namespace sepia::dist
