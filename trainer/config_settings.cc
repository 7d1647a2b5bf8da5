#include "kernels/rotary.h"
#include "trainer/config_draft.h"
#include "trainer/train_config.pb.h"

namespace sepia::trainer {
namespace {

std::vector<DataSourceSettings> Sources(
    const google::protobuf::RepeatedPtrField<config::DataSource>& sources) {
  std::vector<DataSourceSettings> settings;
  for (const config::DataSource& source : sources) {
    settings.push_back({.prefix = source.prefix(), .weight = source.weight()});
  }
  return settings;
}

DataSettings Data(const config::DataConfig& proto) {
  DataSettings data;
  data.source = Sources(proto.source());
  data.split = proto.split();
  data.train = Sources(proto.train());
  data.valid = Sources(proto.valid());
  data.test = Sources(proto.test());
  if (proto.has_blend_by_num_docs_alpha()) {
    data.blend_by_num_docs_alpha = proto.blend_by_num_docs_alpha();
  }
  data.order = static_cast<DataOrder>(proto.order());
  data.sequence_length = proto.sequence_length();
  data.tokenizer = proto.tokenizer();
  data.cache_dir = proto.cache_dir();
  data.seed = proto.seed();
  data.mask_eod_loss = proto.mask_eod_loss();
  data.eod_id = proto.eod_id();
  data.prefetch = proto.prefetch();
  return data;
}

DType ReduceDType(config::Precision precision) {
  switch (precision) {
    case config::BF16: return DType::kBFloat16;
    case config::FP16: return DType::kFloat16;
    case config::FP32: break;
  }
  return DType::kFloat32;
}

// Fields of the small messages, in the order of train_config.proto.
void ReadMessages(const config::TrainConfig& proto, TrainSettings* s) {
  s->batch = {.global = proto.batch().global(), .micro = proto.batch().micro()};
  const auto& optimizer = proto.optimizer();
  s->optimizer = {.lr = optimizer.lr(),
                  .min_lr = optimizer.min_lr(),
                  .beta1 = optimizer.beta1(),
                  .beta2 = optimizer.beta2(),
                  .eps = optimizer.eps(),
                  .weight_decay = optimizer.weight_decay(),
                  .clip = optimizer.clip()};
  const auto& schedule = proto.schedule();
  s->schedule = {.kind = static_cast<ScheduleKind>(schedule.kind()),
                 .warmup_steps = schedule.warmup_steps(),
                 .decay_steps = schedule.decay_steps(),
                 .total_steps = schedule.total_steps(),
                 .wsd_decay_steps = schedule.wsd_decay_steps()};
  const auto& parallel = proto.parallel();
  s->parallel = {.tensor = parallel.tensor(),
                 .sequence = parallel.sequence(),
                 .zero_stage = parallel.zero_stage(),
                 .overlap = parallel.overlap(),
                 .grad_reduce_dtype = ReduceDType(parallel.grad_reduce_dtype())};
  const auto& checkpoint = proto.checkpoint();
  s->checkpoint = {.dir = checkpoint.dir(),
                   .every_steps = checkpoint.every_steps(),
                   .log_spaced = checkpoint.log_spaced(),
                   .keep_last = checkpoint.keep_last(),
                   .keep_every = checkpoint.keep_every(),
                   .async = checkpoint.async(),
                   .max_failures = checkpoint.max_failures()};
  s->init_from = {.path = proto.init_from().path(),
                  .weights_only = proto.init_from().weights_only(),
                  .first_step = proto.init_from().first_step(),
                  .warmup_steps = proto.init_from().warmup_steps(),
                  .fresh_schedule = proto.init_from().fresh_schedule()};
  s->logging = {.every_steps = proto.logging().every_steps(),
                .tensorboard = proto.logging().tensorboard(),
                .peak_gflops = proto.logging().peak_gflops()};
  s->eval = {.every_steps = proto.eval().every_steps(), .steps = proto.eval().steps()};
  const auto& samples = proto.samples();
  s->samples = {.every_steps = samples.every_steps(),
                .prompt = {samples.prompt().begin(), samples.prompt().end()},
                .max_tokens = samples.max_tokens(),
                .temperature = samples.temperature(),
                .top_k = samples.top_k(),
                .top_p = samples.top_p()};
  const auto& safety = proto.safety();
  s->safety = {.max_skipped_in_a_row = safety.max_skipped_in_a_row(),
               .zscore_window = safety.zscore_window(),
               .skip_loss_zscore = safety.skip_loss_zscore(),
               .skip_grad_norm_zscore = safety.skip_grad_norm_zscore(),
               .hang_seconds = safety.hang_seconds(),
               .replica_check_steps = safety.replica_check_steps()};
  const auto& loss_scale = proto.loss_scale();
  s->loss_scale = {.initial_scale_power = loss_scale.initial_scale_power(),
                   .window = loss_scale.window(),
                   .hysteresis = loss_scale.hysteresis(),
                   .min_scale = loss_scale.min_scale(),
                   .static_scale = loss_scale.static_scale()};
}

// The casts above and below rely on equal numbering.
static_assert(static_cast<int>(Numerics::kHf) == config::HF);
static_assert(static_cast<int>(Numerics::kPythiaV1) == config::PYTHIA_V1);
static_assert(static_cast<int>(Precision::kBf16) == config::BF16);
static_assert(static_cast<int>(Precision::kFp16) == config::FP16);
static_assert(static_cast<int>(Device::kCuda) == config::CUDA);
static_assert(static_cast<int>(kernels::FullAttention::kCudnn) == config::KernelsConfig::CUDNN);
static_assert(static_cast<int>(DataOrder::kLinear) == config::DataConfig::LINEAR);
static_assert(static_cast<int>(ScheduleKind::kConstant) == config::ScheduleConfig::CONSTANT);
static_assert(static_cast<int>(ScheduleKind::kWarmupStableDecay) ==
              config::ScheduleConfig::WARMUP_STABLE_DECAY);

}  // namespace

TrainSettings MakeSettings(const config::TrainConfig& proto, const model::ModelConfig& model) {
  TrainSettings settings;
  settings.model = model;
  settings.data = Data(proto.data());
  ReadMessages(proto, &settings);
  settings.numerics = static_cast<Numerics>(proto.numerics());
  settings.precision = static_cast<Precision>(proto.precision());
  settings.device = static_cast<Device>(proto.device());
  settings.seed = static_cast<uint64_t>(proto.seed());
  settings.run_dir = proto.run_dir();
  settings.recompute = proto.recompute();
  settings.rotary_tables =
      proto.rope_fp16_tables() ? kernels::RotaryTables::kNeoxFp16 : kernels::RotaryTables::kFp32;
  settings.threads = proto.threads();
  settings.allow_fallback = proto.kernels().allow_fallback();
  settings.full_attention = static_cast<kernels::FullAttention>(proto.kernels().full_attention());
  settings.cuda_graphs = proto.kernels().cuda_graphs();
  return settings;
}

std::string NumericsName(Numerics numerics) {
  return config::Numerics_Name(static_cast<config::Numerics>(numerics));
}

std::string PrecisionName(Precision precision) {
  return config::Precision_Name(static_cast<config::Precision>(precision));
}

}  // namespace sepia::trainer
