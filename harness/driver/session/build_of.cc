#include "harness/driver/session/build_of.h"

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/base/process.h"
#include "harness/record/environment.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr double kAnswerAllowed_s = 20;

bool is_build(const json& j) {
  return j.is_object() && j.contains("git") && j.contains("build") && j.contains("software") &&
         j["build"].is_object() && j["software"].is_object();
}

}  // namespace

json build_of(const fs::path& bin_dir) {
  std::error_code ec;
  const fs::path own = fs::read_symlink("/proc/self/exe", ec);
  const fs::path program = bin_dir / "tandem";
  if (ec || fs::equivalent(own.parent_path(), bin_dir, ec)) return build_json();
  if (!fs::exists(program, ec)) return unknown_build_json();
  json found;
  try {
    run_process({.command = {program, "build-info"},
                 .on_line =
                     [&](const std::string& line) {
                       json j = parse_json_or_discard(line);
                       if (is_build(j)) found = std::move(j);
                     },
                 .allowed_s = [] { return kAnswerAllowed_s; }});
  } catch (const IoError&) {  // not a program that can be started here: it has nothing to say
  }
  return found.is_null() ? unknown_build_json() : found;
}

}  // namespace tandem
