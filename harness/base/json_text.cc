#include "harness/base/json_text.h"

#include <fmt/format.h>

#include <set>
#include <string>

#include "harness/base/error.h"

namespace tandem {

using nlohmann::json;

json parse_json(std::string_view text) {
  constexpr int kMaxDepth = 64;
  std::set<std::string> keys;
  const json::parser_callback_t watch = [&](int depth, json::parse_event_t event, json& parsed) {
    const bool opens =
        event == json::parse_event_t::array_start || event == json::parse_event_t::object_start;
    if (opens && depth >= kMaxDepth)
      throw UsageError(fmt::format("JSON that nests deeper than {}", kMaxDepth));
    if (event == json::parse_event_t::key && depth == 1 && !keys.insert(parsed.get<std::string>()).second) {
      throw UsageError(fmt::format("{} is there twice", shown(parsed)));
    }
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::exception& e) {
    throw UsageError(fmt::format("not JSON: {}", e.what()));
  }
}

json parse_json_or_discard(std::string_view text) {
  try {
    return parse_json(text);
  } catch (const UsageError&) {
    return json(json::value_t::discarded);
  }
}

std::string shown(const json& value) {
  constexpr size_t kMost = 120;
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > kMost) text = text.substr(0, kMost) + "...";
  return text;
}

}  // namespace tandem
