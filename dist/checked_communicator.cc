#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"
#include "dist/communicator.h"
#include "dist/gather.h"

namespace sepia::dist {
namespace {

constexpr std::array<const char*, 3> kOpNames = {"sum", "min", "max"};

class CheckedCommunicator final : public Communicator {
 public:
  explicit CheckedCommunicator(std::unique_ptr<Communicator> inner) : inner_(std::move(inner)) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  const std::string& name() const override { return inner_->name(); }

  Pending AllReduce(kernels::Context& ctx, TensorView data, ReduceOp op,
                    std::string_view label) override {
    Compare(Describe(fmt::format("AllReduce {}", OpName(op)), data, label));
    return inner_->AllReduce(ctx, data, op, label);
  }
  Pending ReduceScatter(kernels::Context& ctx, ConstTensorView input, TensorView output,
                        ReduceOp op, std::string_view label) override {
    Compare(Describe(fmt::format("ReduceScatter {}", OpName(op)), input, label));
    return inner_->ReduceScatter(ctx, input, output, op, label);
  }
  Pending AllGather(kernels::Context& ctx, ConstTensorView input, TensorView output,
                    std::string_view label) override {
    Compare(Describe("AllGather", input, label));
    return inner_->AllGather(ctx, input, output, label);
  }
  Pending Broadcast(kernels::Context& ctx, TensorView data, int root,
                    std::string_view label) override {
    Compare(Describe(fmt::format("Broadcast from rank {}", root), data, label));
    return inner_->Broadcast(ctx, data, root, label);
  }
  void Barrier(std::string_view label) override {
    Compare(fmt::format("Barrier \"{}\"", label));
    inner_->Barrier(label);
  }
  std::unique_ptr<Communicator> Split(int color, int key, const std::string& name) override {
    Compare(fmt::format("Split \"{}\"", name));
    return MakeCheckedCommunicator(inner_->Split(color, key, name));
  }
  void Abort(int exit_code) override { inner_->Abort(exit_code); }
  Traffic traffic() const override { return inner_->traffic(); }
  std::shared_ptr<FlightRecorder> recorder() override { return inner_->recorder(); }

 private:
  static const char* OpName(ReduceOp op) { return kOpNames[static_cast<size_t>(op)]; }

  static std::string Describe(const std::string& operation, const ConstTensorView& data,
                              std::string_view label) {
    return fmt::format("{} \"{}\" of {} {}", operation, label, data.num_elements(),
                       DTypeName(data.dtype()));
  }

  void Compare(const std::string& call) {
    ++calls_;
    const std::vector<std::string> calls = GatherTexts(*inner_, call, "check");
    const std::vector<int> odd = RanksThatDiffer(calls);
    if (odd.empty()) return;
    size_t usual = 0;
    while (std::find(odd.begin(), odd.end(), static_cast<int>(usual)) != odd.end()) ++usual;
    throw InternalError(fmt::format(
        "collective {} of the {} group: rank {} called {}, but rank {} called {}", calls_, name(),
        JoinRanks(odd), calls[static_cast<size_t>(odd.front())], usual, calls[usual]));
  }

  std::unique_ptr<Communicator> inner_;
  int64_t calls_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> MakeCheckedCommunicator(std::unique_ptr<Communicator> inner) {
  return std::make_unique<CheckedCommunicator>(std::move(inner));
}

}  // namespace sepia::dist
