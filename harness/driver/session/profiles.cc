#include "harness/driver/session/profiles.h"

#include "harness/base/json_text.h"

namespace tandem {

std::map<std::string, double> read_attributed(const std::filesystem::path& run_dir) {
  std::map<std::string, double> found;
  const std::filesystem::path path = run_dir / kProfilesFile;
  if (!std::filesystem::exists(path)) return found;
  for_each_line(path, [&](int, const std::string& text) {
    const auto line = parse_json_or_discard(text);
    if (!line.is_object() || line.value("pass", "") != "node" || line.value("status", "") != "ok") return;
    const auto share = line.value("gpu_busy_attributed", nlohmann::json());
    if (share.is_number()) found[line.value("id", "")] = share.get<double>();
  });
  return found;
}

}  // namespace tandem
