#include "harness/driver/profiles.h"

#include <nlohmann/json.hpp>

namespace tandem {

std::map<std::string, double> read_attributed(const std::filesystem::path& run_dir) {
  std::map<std::string, double> found;
  const std::filesystem::path path = run_dir / kProfilesFile;
  if (!std::filesystem::exists(path)) return found;
  for_each_line(path, [&](int, const std::string& text) {
    const auto line = nlohmann::json::parse(text, nullptr, false);
    if (!line.is_object() || line.value("pass", "") != "node" || line.value("status", "") != "ok") return;
    const auto share = line.value("gpu_busy_attributed", nlohmann::json());
    if (share.is_number()) found[line.value("id", "")] = share.get<double>();
  });
  return found;
}

}  // namespace tandem
