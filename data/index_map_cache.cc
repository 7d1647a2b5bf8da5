#include "data/index_map_cache.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <system_error>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "data/dataset_digest.h"
#include "data/file_lock.h"

namespace sepia::data {
namespace {

// Everything that says which maps are wanted and where they may lie.
struct Request {
  const IndexedDataset& dataset;
  const IndexMapSpec& spec;
  const IndexMapPlan& plan;
  const std::string& name;
  std::string origin;  // content of the _origin.txt of fitting maps

  std::string Stem(const std::string& folder) const;
};

std::string StemIn(const std::string& folder, const std::string& prefix, const std::string& name,
                   const IndexMapSpec& spec) {
  const std::string dataset = std::filesystem::path(prefix).filename();
  return fmt::format("{}/{}_{}_indexmap_{}ns_{}sl_{}s", folder, dataset, name, spec.num_samples,
                     spec.seq_length, spec.seed);
}

std::string Request::Stem(const std::string& folder) const {
  return StemIn(folder, dataset.prefix(), name, spec);
}

IndexMapPaths PathsOf(const std::string& stem) {
  return {.doc = stem + "_doc_idx.npy",
          .sample = stem + "_sample_idx.npy",
          .shuffle = stem + "_shuffle_idx.npy"};
}

std::string OriginPath(const std::string& stem) { return stem + "_origin.txt"; }

std::shared_ptr<const IndexMaps> Map(const Request& request, const std::string& stem) {
  return std::make_shared<const IndexMaps>(PathsOf(stem), request.spec, request.plan);
}

// The maps in `folder` if they are complete and of this dataset.
std::shared_ptr<const IndexMaps> TryMap(const Request& request, const std::string& folder) {
  const std::string stem = request.Stem(folder);
  const IndexMapPaths paths = PathsOf(stem);
  for (const std::string& path : {paths.doc, paths.sample, paths.shuffle}) {
    if (!FileExists(path)) return nullptr;
  }
  if (!FileExists(OriginPath(stem))) return Map(request, stem);
  constexpr int64_t kMaxOriginBytes = 4096;
  try {
    if (ReadFile(OriginPath(stem), kMaxOriginBytes) == request.origin) return Map(request, stem);
    LogInfo("{}_*.npy belong to another version of the dataset", stem);
  } catch (const UserError& error) {
    LogWarn("{}; building the index maps again", error.what());
  }
  return nullptr;
}

void Build(const Request& request, const std::string& folder) {
  const std::string stem = request.Stem(folder);
  LogInfo("building index maps {}_*.npy: {} samples, {} epochs", stem, request.plan.num_samples,
          request.plan.num_epochs);
  const Timer timer;
  WriteIndexMaps(request.dataset.sizes(), request.spec, request.plan, PathsOf(stem));
  WriteFileAtomic(OriginPath(stem), request.origin);
  LogInfo("built them in {:.1f} s", timer.Seconds());
}

// Null if the folder cannot be written.
std::shared_ptr<const IndexMaps> TryBuild(const Request& request, const std::string& folder) {
  const std::optional<FileLock> lock = FileLock::Acquire(request.Stem(folder) + ".lock");
  if (!lock) return nullptr;
  // Another process may have built them while this one waited.
  if (auto maps = TryMap(request, folder)) return maps;
  Build(request, folder);
  return Map(request, request.Stem(folder));
}

// Maps whose files are gone as soon as they are mapped.
std::shared_ptr<const IndexMaps> BuildTemporary(const Request& request) {
  const char* base = std::getenv("TMPDIR");
  std::string folder = fmt::format("{}/sepia-index-maps-XXXXXX", base == nullptr ? "/tmp" : base);
  if (mkdtemp(folder.data()) == nullptr) throw CannotWrite(folder, errno, "set data.cache_dir");
  LogWarn(
      "no folder for index maps can be written; building them for this process only. Set "
      "data.cache_dir to keep them");
  std::error_code ignored;
  try {
    Build(request, folder);
    auto maps = Map(request, request.Stem(folder));
    std::filesystem::remove_all(folder, ignored);
    return maps;
  } catch (...) {
    std::filesystem::remove_all(folder, ignored);
    throw;
  }
}

std::shared_ptr<const IndexMaps> OpenInCacheDir(const Request& request,
                                                const std::string& cache_dir) {
  if (auto maps = TryMap(request, cache_dir)) return maps;
  CreateDirectories(cache_dir);
  if (auto maps = TryBuild(request, cache_dir)) return maps;
  throw CannotWrite(cache_dir, EACCES, "choose another data.cache_dir");
}

}  // namespace

IndexMapPaths IndexMapPathsIn(const std::string& folder, const std::string& prefix,
                              const std::string& name, const IndexMapSpec& spec) {
  return PathsOf(StemIn(folder, prefix, name, spec));
}

std::shared_ptr<const IndexMaps> OpenIndexMaps(const IndexedDataset& dataset,
                                               const IndexMapSpec& spec, const std::string& name,
                                               const IndexMapFolders& folders) {
  const IndexMapPlan plan = PlanIndexMaps(dataset.sizes(), spec, dataset.prefix());
  const Request request{
      .dataset = dataset,
      .spec = spec,
      .plan = plan,
      .name = name,
      .origin = fmt::format("sepia index maps 1\ndataset {}\ndocuments {} {}\n",
                            DatasetDigest(dataset), spec.first_document, spec.end_document)};
  if (!folders.cache_dir.empty()) return OpenInCacheDir(request, folders.cache_dir);

  std::vector<std::string> candidates = {DirectoryOf(dataset.prefix())};
  if (!folders.fallback.empty()) candidates.push_back(folders.fallback);
  for (const std::string& folder : candidates) {
    if (auto maps = TryMap(request, folder)) return maps;
  }
  for (const std::string& folder : candidates) {
    if (folder == folders.fallback) CreateDirectories(folder);
    if (auto maps = TryBuild(request, folder)) return maps;
  }
  return BuildTemporary(request);
}

}  // namespace sepia::data
