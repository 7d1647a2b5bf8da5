// sepia bench checkpoint: what a save costs the run, the disk and the memory, beside a plain write
// of the same bytes.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/directory.h"
#include "base/error.h"
#include "base/file.h"
#include "checkpoint/reader.h"
#include "checkpoint/step_directories.h"
#include "tools/sepia/bench.h"
#include "tools/sepia/bench_text.h"
#include "tools/sepia/step_workload.h"
#include "trainer/checkpointing.h"
#include "trainer/config.h"
#include "trainer/memory_plan.h"
#include "trainer/process.h"

namespace sepia::tools {
namespace {

struct Options {
  std::string model = "pythia-160m";
  std::string dtype = "fp32";
  std::string dir = ".";
  int64_t seq = 512;
  int threads = 2;
  int repeats = 3;
};

trainer::LoadedConfig Config(const Options& o, const std::string& dir) {
  return trainer::LoadConfigText(
      "", "bench checkpoint",
      {fmt::format("model.preset=\"{}\"", o.model), "model.attention.kind=SEP",
       fmt::format("precision={}", o.dtype == "bf16" ? "BF16" : "FP32"),
       fmt::format("data.sequence_length={}", o.seq), "batch.micro=1", "batch.global=1",
       fmt::format("threads={}", o.threads), "checkpoint.keep_last=1",
       fmt::format("checkpoint.dir={}", trainer::QuotedText(dir + "/checkpoints"))},
      {.ranks = 1, .for_training = false});
}

std::vector<trainer::StateTensor> AllStates(const trainer::AdamW& optimizer) {
  std::vector<trainer::StateTensor> all = optimizer.Masters();
  for (const auto& more : {optimizer.FirstMoments(), optimizer.SecondMoments()}) {
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}

// As dd bs=1M conv=fdatasync does it.
double WritePlainly(const std::string& path, const Buffer& bytes) {
  constexpr size_t kBlock = 1 << 20;
  const double seconds = TimeOnce([&] {
    File file = File::Create(path);
    for (std::span<const std::byte> rest(bytes.data(), static_cast<size_t>(bytes.size()));
         !rest.empty();) {
      const size_t count = std::min(rest.size(), kBlock);
      file.Write(rest.first(count));
      rest = rest.subspan(count);
    }
    if (fdatasync(file.fd()) != 0) throw CannotWrite(path, errno);
    file.Close();
  });
  unlink(path.c_str());
  return seconds;
}

struct Measurements {
  int64_t bytes = 0;  // master weights and moments
  int64_t extra_memory = 0;
  double crc_s = 0, load_s = 0;
  std::vector<double> step_s = {}, stall_s = {}, copy_s = {}, save_s = {}, plain_s = {};
};

class Bench {
 public:
  Bench(const Options& o, const std::string& dir)
      : dir_(dir),
        config_(Config(o, dir)),
        workload_(config_.settings,
                  RandomTokens(o.seq + 1, config_.settings.model.vocab_size,
                               config_.settings.model.separator_ids, /*density=*/0.16)),
        checkpoints_(config_, {}, workload_.optimizer(), workload_.world()),
        states_(AllStates(workload_.optimizer())) {
    for (const trainer::StateTensor& state : states_) m_.bytes += state.view.num_bytes();
    for (int i = 0; i < 2; ++i) workload_.Run();
    workload_.VerifyLosses();
  }

  Measurements Run(int repeats) {
    const int64_t before = trainer::ResidentBytes();
    trainer::ResetPeakResident();
    Save(/*step=*/1);  // makes the snapshot's memory
    m_.extra_memory = trainer::PeakResidentBytes() - before;
    m_.stall_s.clear();
    m_.save_s.clear();
    const Buffer buffer(m_.bytes, "a copy to compare with");
    CopyStates(buffer);  // touches the pages
    for (int i = 0; i < repeats; ++i) {
      m_.step_s.push_back(workload_.Run().total());
      m_.plain_s.push_back(WritePlainly(dir_ + "/plain", buffer));
      m_.copy_s.push_back(TimeOnce([&] { CopyStates(buffer); }));
      Save(/*step=*/i + 2);
    }
    Verify(buffer);
    return m_;
  }

 private:
  void Save(int64_t step) {
    state_.step = step;
    const Timer timer;
    checkpoints_.Save(state_);
    m_.stall_s.push_back(timer.Seconds());
    checkpoints_.Finish();
    m_.save_s.push_back(timer.Seconds());
  }

  // As checkpoints hold them.
  void CopyStates(const Buffer& buffer) {
    std::byte* to = buffer.data();
    for (const trainer::StateTensor& state : states_) {
      state.Read(0, TensorView(to, DType::kFloat32, state.view.shape()));
      to += state.view.num_bytes();
    }
  }

  // What comes back is what was saved.
  void Verify(const Buffer& buffer) {
    const auto digest = [&] { return Crc32c({buffer.data(), static_cast<size_t>(buffer.size())}); };
    CopyStates(buffer);
    uint32_t saved = 0;
    m_.crc_s = TimeOnce([&] { saved = digest(); });
    for (const trainer::StateTensor& state : states_) {
      state.Fill([](const TensorView& values) { FillBytes(values, 0); });
    }
    checkpoint::TrainState state;
    kernels::Context ctx;
    m_.load_s = TimeOnce([&] { checkpoints_.LoadOrInitialize(ctx, &state); });
    CopyStates(buffer);
    const std::string newest = checkpoint::NewestCheckpoint(dir_ + "/checkpoints").value_or("");
    const bool whole = checkpoint::CheckpointReader(newest).VerifyDeep().empty();
    if (state == state_ && digest() == saved && whole) return;
    throw Error(ExitCode::kInternal, "bench checkpoint: what was loaded is not what was saved");
  }

  const std::string dir_;
  const trainer::LoadedConfig config_;
  StepWorkload workload_;
  trainer::Checkpointing checkpoints_;
  std::vector<trainer::StateTensor> states_;
  checkpoint::TrainState state_;
  Measurements m_;
};

nlohmann::ordered_json Report(const Options& o, const Measurements& m) {
  const auto bytes = static_cast<double>(m.bytes);
  const Spread step = Summarize(m.step_s), stall = Summarize(m.stall_s), copy = Summarize(m.copy_s);
  const Spread save = Summarize(m.save_s), plain = Summarize(m.plain_s);
  return {{"bench", "checkpoint"},
          {"model", o.model},
          {"dtype", o.dtype},
          {"seq", o.seq},
          {"threads", o.threads},
          {"mbytes", bytes / 1e6},
          {"step_s", step.median},
          {"stall_ms", 1e3 * stall.median},
          {"stall_ms_max", 1e3 * stall.max},
          {"copy_ms", 1e3 * copy.median},
          {"stall_over_copy", stall.median / copy.median},
          {"stall_share_of_step", stall.median / step.median},
          {"save_s", save.median},
          {"write_mb_per_s", bytes / 1e6 / (save.median - stall.median)},
          {"plain_mb_per_s", bytes / 1e6 / plain.median},
          {"write_over_plain", plain.median / (save.median - stall.median)},
          {"write_over_plain_best", plain.min / (save.min - stall.min)},
          {"extra_memory_over_bytes", static_cast<double>(m.extra_memory) / bytes},
          {"load_mb_per_s", bytes / 1e6 / m.load_s},
          {"crc_gb_per_s", bytes / 1e9 / m.crc_s}};
}

void RunBenchCheckpoint(const Options& o) {
  const std::string dir = fmt::format("{}/bench-checkpoint.tmp-{}", o.dir, getpid());
  CreateDirectories(dir);
  Measurements measurements;
  try {
    measurements = Bench(o, dir).Run(o.repeats);
  } catch (...) {
    RemoveTree(dir);
    throw;
  }
  RemoveTree(dir);
  std::cout << Report(o, measurements).dump() << std::endl;
}

}  // namespace

void AddBenchCheckpointCommand(CLI::App& bench) {
  auto o = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand("checkpoint", "saving in the background, and loading");
  command->add_option("--model", o->model, "preset")->capture_default_str();
  command->add_option("--dtype", o->dtype, "fp32 or bf16")
      ->capture_default_str()
      ->check(CLI::IsMember({"fp32", "bf16"}));
  command->add_option("--dir", o->dir, "a directory on the disk to measure")->capture_default_str();
  command->add_option("--seq", o->seq, "tokens of a step")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--threads", o->threads, "threads of a step")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  AddRepeatsOption(*command, o->repeats);
  command->footer(
      "Alternates saves of a real training state with plain writes of the same bytes (as dd bs=1M\n"
      "conv=fdatasync). stall_ms: how long a save keeps the run waiting; copy_ms: a copy of the\n"
      "state in memory; then it is loaded again and compared.\n\n"
      "Example:\n  sepia bench checkpoint --model pythia-160m --dir /scratch");
  command->final_callback([o] { RunBenchCheckpoint(*o); });
}

}  // namespace sepia::tools
