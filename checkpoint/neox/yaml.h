// YAML as GPT-NeoX configs use it, as the same plain tree as JSON: one mapping with string keys.
// Anchors, aliases and tags are refused, a key may appear once, depth and size are bounded.
#pragma once

#include <string>
#include <string_view>

#include "checkpoint/json.h"

namespace sepia::checkpoint {

// The mapping in a file of at most 1 MiB. Throws BadData with file:line:column.
JsonObject ReadYamlObject(const std::string& path);

// The same for text that was read from `path`.
JsonObject ParseYamlObject(std::string_view text, const std::string& path);

}  // namespace sepia::checkpoint
