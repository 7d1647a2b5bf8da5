// Several threads work on the chunks of a corpus; the results are used in the order of the chunks,
// so that neither output nor the error that is reported depends on the number of threads.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "data/tokenizer/corpus_reader.h"

namespace sepia::data {

// `make_worker` is called once a thread and returns the function that turns a chunk into a Result;
// `use` gets the results, one at a time and in order, on whichever thread. At most one chunk and
// one result a thread exist. The first exception, in the order of the chunks, is rethrown.
template <typename Result>
class OrderedPipeline {
 public:
  using Worker = std::function<Result(CorpusChunk&)>;

  OrderedPipeline(CorpusReader& reader, std::function<Worker()> make_worker,
                  std::function<void(Result&)> use)
      : reader_(reader), make_worker_(std::move(make_worker)), use_(std::move(use)) {}

  void Run(int num_threads) {
    std::vector<std::jthread> threads;
    for (int i = 1; i < num_threads; ++i) threads.emplace_back([this] { Work(); });
    Work();
    threads.clear();
    if (error_ != nullptr) std::rethrow_exception(error_);
  }

 private:
  void Work() {
    int64_t turn = 0;
    std::exception_ptr error;
    Result result{};
    Worker worker;
    do {
      CorpusChunk chunk;
      if (!Claim(chunk, turn, error)) return;
      try {
        if (error == nullptr && worker == nullptr) worker = make_worker_();
        if (error == nullptr) result = worker(chunk);
      } catch (...) {
        error = std::current_exception();
      }
    } while (UseInTurn(turn, result, error));
  }

  // The next chunk and its turn; false at the end. A reader's error takes a turn like a chunk.
  bool Claim(CorpusChunk& chunk, int64_t& turn, std::exception_ptr& error) {
    const std::lock_guard lock(read_mutex_);
    if (exhausted_) return false;
    try {
      exhausted_ = !reader_.NextChunk(chunk);
      if (exhausted_) return false;
    } catch (...) {
      exhausted_ = true;
      error = std::current_exception();
    }
    turn = next_claim_++;
    return true;
  }

  // False if the work is over.
  bool UseInTurn(int64_t turn, Result& result, std::exception_ptr error) {
    std::unique_lock lock(use_mutex_);
    turn_changed_.wait(lock, [&] { return next_use_ == turn || error_ != nullptr; });
    if (error_ != nullptr) return false;
    try {
      if (error == nullptr) use_(result);
    } catch (...) {
      error = std::current_exception();
    }
    error_ = error;
    ++next_use_;
    turn_changed_.notify_all();
    return error_ == nullptr;
  }

  CorpusReader& reader_;
  std::function<Worker()> make_worker_;
  std::function<void(Result&)> use_;

  std::mutex read_mutex_;
  bool exhausted_ = false;
  int64_t next_claim_ = 0;

  std::mutex use_mutex_;
  std::condition_variable turn_changed_;
  int64_t next_use_ = 0;
  std::exception_ptr error_;
};

}  // namespace sepia::data
