#include "trainer/hardware.h"

#include <fmt/format.h>

namespace sepia::trainer {
namespace {

constexpr double kGib = 1024.0 * 1024 * 1024;

// Of one GPU of a machine with eight.
struct DataSheet {
  const char* name;
  double half_tflops;    // bf16 and f16, dense
  double single_tflops;  // fp32 as the program computes it: TF32 is another arithmetic
  double memory_tb_per_s;
  double all_reduce_gb_per_s;  // busbw of NCCL in a node
  double network_gb_per_s;     // of a node, each way
  double attention_share;      // of half_tflops
  const char* sheet;
  const char* link;
};

// Assumptions, the same for both.
constexpr double kLinearShare = 0.60;   // large products in training
constexpr double kHeadShare = 0.50;     // products with the softmax between them
constexpr double kMemoryShare = 0.80;   // of passes over memory
constexpr double kNetworkShare = 0.80;  // of the line rate
constexpr double kNodeLatency = 15e-6;  // of a small NCCL operation
constexpr double kNetworkLatency = 30e-6;
constexpr double kOverlap = 0.80;   // NCCL's kernels take some of the processors
constexpr double kReservedGib = 2;  // context, cuBLAS and NCCL buffers

constexpr DataSheet kDataSheets[] = {
    {.name = "a100",
     .half_tflops = 312,
     .single_tflops = 19.5,
     .memory_tb_per_s = 2.039,
     .all_reduce_gb_per_s = 200,
     .network_gb_per_s = 200,
     .attention_share = 0.30,
     .sheet = "NVIDIA A100 80GB SXM data sheet: 312 TFLOP/s bf16 dense, 19.5 fp32, 2.039 TB/s; "
              "DGX A100: 8 x 200 Gb/s",
     .link = "about 200 GB/s busbw of an all-reduce over 8: github.com/NVIDIA/nccl-tests "
             "issue 149"},
    {.name = "h100",
     .half_tflops = 989,
     .single_tflops = 67,
     .memory_tb_per_s = 3.35,
     .all_reduce_gb_per_s = 370,
     .network_gb_per_s = 400,
     .attention_share = 0.18,
     .sheet = "NVIDIA H100 SXM data sheet: 989 TFLOP/s bf16 dense, 67 fp32, 3.35 TB/s; "
              "DGX H100: 8 x 400 Gb/s",
     .link = "370 GB/s busbw by rings: NVIDIA in github.com/NVIDIA/nccl-tests issue 212"},
};

Hardware FromSheet(const DataSheet& sheet, DType compute_dtype) {
  Hardware hardware{.name = sheet.name};
  const bool single = compute_dtype == DType::kFloat32;
  hardware.peak_flops = 1e12 * (single ? sheet.single_tflops : sheet.half_tflops);
  hardware.linear_flops = kLinearShare * hardware.peak_flops;
  hardware.head_flops = kHeadShare * hardware.peak_flops;
  hardware.attention_flops = sheet.attention_share * hardware.peak_flops;
  hardware.elementwise_bytes = kMemoryShare * 1e12 * sheet.memory_tb_per_s;
  hardware.optimizer_bytes = hardware.elementwise_bytes;
  hardware.memory_bytes = static_cast<int64_t>(80e9);
  hardware.reserved_bytes = static_cast<int64_t>(kReservedGib * kGib);
  hardware.ranks_per_node = 8;
  hardware.in_node = {1e9 * sheet.all_reduce_gb_per_s, kNodeLatency};
  hardware.across_nodes = {kNetworkShare * 1e9 * sheet.network_gb_per_s, kNetworkLatency};
  hardware.overlap_in_node = hardware.overlap_across_nodes = kOverlap;
  hardware.sources = {
      sheet.sheet, sheet.link,
      fmt::format("assumed: products at {:.0f} % of the peak, head {:.0f} %, attention {:.0f} %, "
                  "passes over memory at {:.0f} % of its bandwidth, network at {:.0f} % of its "
                  "line rate, {:.0f} % of communication beside computing, {:.0f} GiB reserved",
                  100 * kLinearShare, 100 * kHeadShare, 100 * sheet.attention_share,
                  100 * kMemoryShare, 100 * kNetworkShare, 100 * kOverlap, kReservedGib)};
  return hardware;
}

}  // namespace

std::optional<Hardware> HardwareFromDataSheet(const std::string& name, DType compute_dtype) {
  for (const DataSheet& sheet : kDataSheets) {
    if (name == sheet.name) return FromSheet(sheet, compute_dtype);
  }
  return std::nullopt;
}

}  // namespace sepia::trainer
