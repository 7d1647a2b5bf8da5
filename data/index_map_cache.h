// Index maps on disk, under GPT-NeoX's file names: found, or built once by one of the processes of
// a node while the others wait, and mapped by all.
#pragma once

#include <memory>
#include <string>

#include "data/index_maps.h"
#include "data/indexed_dataset.h"

namespace sepia::data {

struct IndexMapFolders {
  // The only folder to use, made if need be. Empty: the dataset's own, if maps are there or it can
  // be written; else `fallback`; else a private temporary folder.
  std::string cache_dir = {};
  std::string fallback = {};
};

// `folder`/<dataset>_<name>_indexmap_<samples>ns_<T>sl_<seed>s_{doc,sample,shuffle}_idx.npy
IndexMapPaths IndexMapPathsIn(const std::string& folder, const std::string& prefix,
                              const std::string& name, const IndexMapSpec& spec);

// `name`: "train", "valid_0", ...; it only enters the file names.
//
// Beside its own maps Sepia leaves <...>_origin.txt with the dataset's digest: maps of an older
// version of the dataset, and damaged ones, are built again. Maps without it come from GPT-NeoX or
// a release; they are used if they fit, else that is kBadData.
std::shared_ptr<const IndexMaps> OpenIndexMaps(const IndexedDataset& dataset,
                                               const IndexMapSpec& spec, const std::string& name,
                                               const IndexMapFolders& folders);

}  // namespace sepia::data
