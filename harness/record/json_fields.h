// Fields of a record that may be missing. Internal to the record.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>

namespace tandem {

template <typename T>
nlohmann::json maybe(const std::optional<T>& value) {
  return value ? nlohmann::json(*value) : nlohmann::json();
}

/// Null and absent both mean: not known.
template <typename T>
void read(const nlohmann::json& j, const char* key, std::optional<T>& value) {
  const auto it = j.find(key);
  if (it != j.end() && !it->is_null()) value = it->get<T>();
}

}  // namespace tandem
