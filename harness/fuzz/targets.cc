#include "harness/fuzz/targets.h"

#include <functional>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/model/config.h"
#include "harness/model/generation.h"
#include "harness/model/hugging_face.h"
#include "harness/model/safetensors.h"
#include "harness/record/record.h"
#include "harness/sweep/sweep_spec.h"
#include "harness/weights/values/convert.h"

namespace tandem::fuzz {
namespace {

using nlohmann::json;

std::string_view text_of(std::span<const std::byte> data) {
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

/// An Error is what a reader says to a bad file.
void allow_errors(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error&) {
  }
}

/// Does a string in it hold a path? Whatever lies at the path is not the subject.
bool names_a_file(const json& j) {
  if (j.is_string()) {
    const auto& text = j.get_ref<const std::string&>();
    return text.find('/') != std::string::npos || text.find(':') != std::string::npos ||
           text.ends_with(".json");
  }
  for (const json& inner : j) {
    if (inner.is_structured() || inner.is_string() ? names_a_file(inner) : false) return true;
  }
  return false;
}

bool has_model_or_lengths_of_a_file(const json& j) {
  if (!j.is_object() || !j.contains("groups")) return false;
  for (const json& group : j["groups"]) {
    if (!group.is_object()) continue;
    for (const char* key : {"model", "lengths"}) {
      if (group.contains(key) && names_a_file(group[key])) return true;
    }
  }
  return false;
}

}  // namespace

void safetensors(std::span<const std::byte> data) {
  allow_errors([&] {
    for (const auto& [name, tensor] : parse_safetensors("fuzz", data)) {
      const auto type = tensor.float_type();
      if (!type) continue;
      std::vector<float> values(tensor.size());
      convert_values({.from = tensor.bytes.data(),
                      .from_type = *type,
                      .to = reinterpret_cast<std::byte*>(values.data()),
                      .to_type = DType::kF32,
                      .count = tensor.size()});
    }
  });
}

void config(std::span<const std::byte> data) {
  json j;
  try {
    j = parse_json(text_of(data));
  } catch (const Error&) {
    return;
  }
  allow_errors([&] {
    const Family family = read_family(j);
    const ModelConfig c = read_hf_config(family, j);
    check(c);
    read_generation(json(), j, c.vocab);
  });
  allow_errors([&] { read_generation(j, json(), 1000); });
  allow_errors([&] { check(j.get<ModelConfig>()); });
}

void sweep(std::span<const std::byte> data) {
  allow_errors([&] {
    const json j = parse_json(text_of(data));
    if (has_model_or_lengths_of_a_file(j)) return;
    for (const Case& c : expand_sweep(j, {}).cases) {
      if (case_from_json(case_to_json(c)) != c)
        throw std::logic_error("a case changes on its way through JSON");
    }
  });
}

void record(std::span<const std::byte> data) {
  allow_errors([&] {
    const Record r = record_from_json(parse_json(text_of(data)));
    const json again = record_to_json(r);
    if (record_to_json(record_from_json(again)) != again) {
      throw std::logic_error("a record changes on its way through JSON");
    }
  });
}

const std::vector<Target>& targets() {
  static const std::vector<Target> all = {
      {"safetensors", safetensors}, {"config", config}, {"sweep", sweep}, {"record", record}};
  return all;
}

}  // namespace tandem::fuzz
