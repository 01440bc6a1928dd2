// What is fuzzed: the readers of files that other programs write. Each takes any bytes and returns; an Error is an answer,
// any other exception, a crash or a hang is a bug.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace tandem::fuzz {

void safetensors(std::span<const std::byte> data);
/// config.json of a checkpoint, which is also taken as its generation_config.json and as a model of our own fields.
void config(std::span<const std::byte> data);
void sweep(std::span<const std::byte> data);
/// One line of records.jsonl.
void record(std::span<const std::byte> data);

struct Target {
  std::string name;  ///< also of its corpus folder
  void (*run)(std::span<const std::byte> data);
};
const std::vector<Target>& targets();

}  // namespace tandem::fuzz
