// `tandem doctor`: what is here, what is missing, and what follows from it.
#include <dlfcn.h>
#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "harness/base/error.h"
#include "harness/base/process.h"
#include "harness/driver/commands/commands.h"
#include "harness/driver/duet/report_tool.h"
#include "harness/driver/session/ceilings_store.h"
#include "harness/record/environment.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

/// What was found, in order.
class Findings {
 public:
  void ok(const std::string& what) { add("ok", what, {}); }
  void note(const std::string& what, const std::string& consequence) { add("note", what, consequence); }
  void missing(const std::string& what, const std::string& consequence) { add("missing", what, consequence); }
  /// More about the last one.
  void detail(const std::string& text) { list_.back()["detail"] = text; }

  void print(bool as_json) const {
    if (as_json) {
      fmt::print("{}\n", list_.dump(1));
      return;
    }
    for (const json& found : list_) {
      const std::string& what = found["what"].get_ref<const std::string&>();
      fmt::print("{:<7}  {}{}\n", found["state"].get<std::string>(), what,
                 found["consequence"].is_null() ? "" : ": " + found["consequence"].get<std::string>());
      if (!found["detail"].is_null()) fmt::print("         {}\n", found["detail"].get<std::string>());
    }
  }

 private:
  void add(const char* state, const std::string& what, const std::optional<std::string>& consequence) {
    list_.push_back({{"state", state},
                     {"what", what},
                     {"consequence", consequence ? json(*consequence) : json()},
                     {"detail", nullptr}});
  }

  json list_ = json::array();
};

bool has_library(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (void* library = ::dlopen(name, RTLD_LAZY | RTLD_LOCAL)) {
      ::dlclose(library);
      return true;
    }
  }
  return false;
}

void check_build(Findings& found, const fs::path& bin_dir) {
  const BuildInfo& build = build_info();
  found.ok(fmt::format("build: tandem {}, {}, {}, revision {}{}", build.version, build.type, build.compiler,
                       build.git_revision.value_or("unknown"),
                       build.git_dirty.value_or(false) ? " with changes" : ""));
  if (build.cuda_architectures) {
    found.ok(fmt::format("engine cuda: built with CUDA {} for sm_{}", build.cuda.value_or("unknown"),
                         *build.cuda_architectures));
  } else {
    found.missing("engine cuda", "this build has the reference engine only; presets cuda and h200 have both");
  }
  // Not suites(): a sweep may name one that no build makes yet, and what cannot be had is not missing.
  std::istringstream built(TANDEM_SUITES);
  std::string here, gone;
  for (std::string suite; built >> suite;) {
    std::string& list = fs::exists(bin_dir / fmt::format("suite_{}", suite)) ? here : gone;
    list += fmt::format("{}suite_{}", list.empty() ? "" : " ", suite);
  }
  if (!here.empty()) found.ok(fmt::format("suites in {}: {}", bin_dir.string(), here));
  if (!gone.empty()) found.missing(gone, "their cases are skipped");
}

void check_card(Findings& found, const CardInfo& card) {
  auto word = [](const auto& value, const char* unit) {
    return value ? fmt::format("{}{}", *value, unit) : "unknown";
  };
  found.ok(fmt::format("card {}: {} {}, compute capability {}, {} SMs, {} GB, power limit {}", card.index,
                       card.name, card.uuid, card.compute_capability.value_or("unknown"), word(card.sms, ""),
                       card.memory_bytes ? fmt::format("{:.0f}", *card.memory_bytes * 1e-9) : "unknown",
                       word(card.power_limit_w, " W")));
  found.detail(fmt::format("clocks {}, ECC {}, MIG {}, NVLinks up: {}", card.clock_policy.value_or("unknown"),
                           card.ecc ? (*card.ecc ? "on" : "off") : "unknown",
                           card.mig ? (*card.mig ? "on" : "off") : "unknown", card.nvlinks.size()));
  if (card.clock_policy == "default") {
    found.note("clocks are not locked",
               "samples are taken once the clock is steady, and say which regime that was");
  }
  if (card.mig.value_or(false))
    found.note("MIG is on", "a slice is measured, not the card: do not compare with whole cards");
  if (card.ecc && !*card.ecc)
    found.note("ECC is off", "results are not comparable with cards that have it on");
  const auto processes = card_processes(nvml(), card.index);
  if (!processes) {
    found.note("processes on the card cannot be listed", "samples are not marked as contended");
  } else if (!processes->empty()) {
    std::string list;
    for (const CardProcess& p : *processes)
      list += fmt::format(" {}{}", p.pid, p.name.empty() ? "" : "(" + p.name + ")");
    found.note(fmt::format("other processes on card {}:{}", card.index, list),
               "samples will be marked as contended");
  }
}

void check_cards(Findings& found) {
  const auto cards = nvml_cards(nvml());
  if (nvml() == nullptr) {
    found.missing("NVIDIA driver (libnvidia-ml.so.1)",
                  "engine cuda cannot run here; `--engine auto` is the reference");
    return;
  }
  if (cards.empty()) {
    found.missing("a card", "engine cuda cannot run here; `--engine auto` is the reference");
    return;
  }
  found.ok(fmt::format("driver {}, CUDA up to {}", cards[0].driver.value_or("unknown"),
                       cards[0].cuda_driver.value_or("unknown")));
  for (const CardInfo& card : cards) check_card(found, card);
  std::ifstream params("/proc/driver/nvidia/params");
  for (std::string line; std::getline(params, line);) {
    if (line == "RmProfilingAdminOnly: 1" && ::geteuid() != 0) {
      found.note("hardware counters are for root only",
                 "`tandem profile` gives times and no counters (NVreg_RestrictProfilingToAdminUsers=0)");
    }
  }
  if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES")) {
    found.note(fmt::format("CUDA_VISIBLE_DEVICES is '{}'", visible), "--device counts within it");
  }
}

void check_tools(Findings& found, const fs::path& bin_dir) {
  const std::pair<const char*, const char*> tools[] = {
      {"nvcc", "the CUDA engine cannot be built here"},
      {"nsys", "scripts/nsys cannot run"},
      {"cmake", "nothing can be built here"},
      {"ninja", "the presets cannot be built here"},
      {"ccache", "builds after the first take as long as the first"},
      {"git", "records do not say which revision they were built from"},
      {"python3", "no reports, no comparisons, no gate"}};
  for (const auto& [tool, consequence] : tools) {
    if (const auto path = program_on_path(tool, "/usr/local/cuda/bin")) {
      found.ok(fmt::format("{}: {}", tool, *path));
    } else {
      found.missing(tool, consequence);
    }
  }
  if (const auto program = report_program(bin_dir)) {
    found.ok(fmt::format("tandem-report: {}", *program));
  } else {
    found.missing("tandem-report", "no reports; scripts/bootstrap makes .venv with it");
  }
  if (!build_info().cuda_architectures) return;
  if (!has_library({"libcublasLt.so.13", "libcublasLt.so"}))
    found.missing("cuBLASLt", "engine cuda does not start");
  if (!has_library({"libnccl.so.2"})) found.missing("NCCL", "no tp or dp above 1");
  if (!has_library({"libcupti.so.13", "libcupti.so", "/usr/local/cuda/extras/CUPTI/lib64/libcupti.so"})) {
    found.missing("CUPTI", "`tandem profile` has nothing to profile with");
  }
}

std::string rate(const std::optional<double>& value) {
  return value ? fmt::format("{:.4g}", *value) : "unknown";
}

/// Ceilings as they are kept, how old they are, and whether they can be believed. `stored`: as a run would take them.
void check_ceilings(Findings& found, const fs::path& path, const std::optional<Ceilings>& stored) {
  Ceilings kept;
  try {
    kept = read_ceilings(path);
  } catch (const Error& e) {
    found.note("ceilings cannot be read", fmt::format("the next `tandem run` measures them: {}", e.what()));
    return;
  }
  const auto age = std::chrono::duration_cast<std::chrono::hours>(fs::file_time_type::clock::now() -
                                                                  fs::last_write_time(path));
  const auto days = age.count() / 24;
  const std::string when =
      days < 1 ? "under a day ago" : fmt::format("{} day{} ago", days, days == 1 ? "" : "s");
  const std::string what =
      fmt::format("ceilings measured {} ({}): {}", kept.measured_at, when, path.string());
  const auto wrong = contradictions(kept);
  if (!wrong.empty()) {
    found.note(what,
               fmt::format("not believed, the next `tandem run` measures them: {}", fmt::join(wrong, "; ")));
  } else if (!kept.doubt.empty()) {
    found.note(what, fmt::format("in question, the next `tandem run` measures them: {}", kept.doubt));
  } else if (!stored) {
    found.note(what,
               fmt::format("of '{}', another machine: the next `tandem run` measures them", kept.machine));
  } else {
    found.ok(what);
  }
  found.detail(fmt::format(
      "memory read {} and copied {} GB/s, cache {} GB/s, bf16 {} TFLOP/s in a burst, {} sustained",
      rate(kept.read_gbs), rate(kept.copy_gbs), rate(kept.l2_gbs),
      rate(kept.burst_tflops[static_cast<size_t>(Precision::kBf16)]),
      rate(kept.sustained_tflops[static_cast<size_t>(Precision::kBf16)])));
}

void check_places(Findings& found, const std::optional<CardInfo>& card) {
  struct statvfs fs_info {};
  if (::statvfs("/dev/shm", &fs_info) == 0) {
    found.ok(
        fmt::format("shared memory for the Level-1 cache: {:.1f} GB free in /dev/shm",
                    static_cast<double>(fs_info.f_bavail) * static_cast<double>(fs_info.f_frsize) * 1e-9));
  } else {
    found.missing("/dev/shm", "the Level-1 cache is in the run folder");
  }
  const fs::path path = ceilings_path(card);
  if (path.empty()) {
    found.missing("a cache folder (HOME or XDG_CACHE_HOME)", "ceilings are measured again by every run");
  } else if (fs::exists(path)) {
    check_ceilings(found, path, stored_ceilings(card));
  } else {
    found.note("ceilings are not measured yet", "the next `tandem run` measures them first");
  }
}

}  // namespace

int doctor_command(const DoctorArgs& args) {
  const auto card = usable_card(args.device);
  Findings found;
  check_build(found, args.bin_dir);
  check_cards(found);
  check_tools(found, args.bin_dir);
  check_places(found, card);
  found.print(args.as_json);
  if (args.require_device && !card) {
    throw DeviceError(fmt::format("--require-device: engine cuda has no usable device {} here", args.device));
  }
  return static_cast<int>(ExitCode::kGood);
}

}  // namespace tandem
