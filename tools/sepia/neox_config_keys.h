// Keys of GPT-NeoX configs (megatron/neox_arguments/) and of SepLLM's fork that need no mapping
// here.
#pragma once

#include <array>
#include <string_view>

namespace sepia::tools {

// Read by FillNeoxModelConfig, which refuses the values that Sepia does not compute.
inline constexpr std::array<std::string_view, 34> kNeoxModelKeys = {
    "num_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "pos_emb",
    "rotary_pct",
    "rotary_emb_base",
    "norm",
    "layernorm_epsilon",
    "activation",
    "bias_gelu_fusion",
    "gpt_j_residual",
    "gpt_j_tied",
    "no_weight_tying",
    "use_bias_in_norms",
    "use_bias_in_attn_linear",
    "separator_token_ids",
    "prefill_local_window_size",
    "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS",
    "prefill_loc_win_size_list",
    "init_tok_max_idx",
    "USE_ORIGINAL_FULL_ATTEN",
    "streamingLLM",
    "USE_BiPE",
    "USE_SA_SOFTMAX",
    "USE_SA_SOFTMAX_NO_DENO",
    "SA_Numerator_Bias",
    "SA_Denominator_Bias",
    "BiPE_seps",
    "PADDING_ID",
    "seq_length",
    "seed",
    "make_vocab_size_divisible_by"};

struct NeoxIgnoredKey {
  std::string_view key;
  std::string_view reason;
};
inline constexpr std::string_view kNeoxSpeed = "how it is computed, not what";
inline constexpr std::string_view kNeoxLaunch = "how GPT-NeoX is started";
inline constexpr std::string_view kNeoxMemory = "activation memory: see `recompute`";
inline constexpr std::string_view kNeoxGeneration = "only for generation";
inline constexpr std::array<NeoxIgnoredKey, 37> kNeoxIgnoredKeys = {{
    {"scaled_upper_triang_masked_softmax_fusion", kNeoxSpeed},
    {"scaled_masked_softmax_fusion", kNeoxSpeed},
    {"bias_dropout_fusion", kNeoxSpeed},
    {"rope_fusion", kNeoxSpeed},
    {"attention_config", kNeoxSpeed},
    {"USE_SEP_ATTN_KERNEL_ACCELERATOR", kNeoxSpeed},
    {"output_layer_parallelism", kNeoxSpeed},
    {"data_impl", "Sepia reads mmap data"},
    {"num_workers", "the loader needs none"},
    {"checkpoint_activations", kNeoxMemory},
    {"checkpoint_num_layers", kNeoxMemory},
    {"partition_activations", kNeoxMemory},
    {"synchronize_each_layer", kNeoxMemory},
    {"distributed_backend", kNeoxLaunch},
    {"launcher", kNeoxLaunch},
    {"deepspeed_slurm", kNeoxLaunch},
    {"deepspeed_mpi", kNeoxLaunch},
    {"hostfile", kNeoxLaunch},
    {"master_port", kNeoxLaunch},
    {"steps_per_print", "logging.every_steps is log_interval"},
    {"wall_clock_breakdown", "metrics.jsonl always has the times"},
    {"tokenizer_type", "vocab_file says it"},
    {"save", "give --run-dir"},
    {"load", "a run resumes from its own directory; see init_from"},
    {"finetune", "see init_from"},
    {"keep_last_n_checkpoints", "see checkpoint.keep_last"},
    {"tensorboard_dir", "event files lie in the run directory"},
    {"log_dir", "logs lie in the run directory"},
    {"use_wandb", "not supported; metrics.jsonl has everything"},
    {"gas", "follows from the global batch"},
    {"gradient_accumulation_steps", "its effect is in batch.global"},
    {"generate_local_window_size", kNeoxGeneration},
    {"USE_GENERATE_LOCAL_WIN_SIZES_wrt_LAYERS", kNeoxGeneration},
    {"generate_win_loc_size_list", kNeoxGeneration},
    {"BATCH_ADAPTIVE_INIT_POS", kNeoxGeneration},
    {"PRINT_KV_RATIO", "metrics.jsonl has attn_kept"},
    {"print_ratio_intervals", "metrics.jsonl has attn_kept"},
}};

}  // namespace sepia::tools
