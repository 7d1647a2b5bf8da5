// A GGUF file of architecture "gptneox" as a model.
#pragma once

#include <memory>
#include <string>

#include "checkpoint/model_source.h"

namespace sepia::checkpoint {

// Sepia's exports carry the whole architecture; others' say nothing about the activation, and
// llama.cpp computes the tanh GELU. Throws BadData.
std::unique_ptr<ModelSource> OpenGguf(const std::string& path);

}  // namespace sepia::checkpoint
