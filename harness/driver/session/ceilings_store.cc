#include "harness/driver/session/ceilings_store.h"

#include <fmt/format.h>

#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/base/process.h"
#include "harness/driver/talk/progress.h"
#include "harness/engine/traits.h"
#include "harness/record/environment.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

constexpr double kMeasureAllowed_s = 300;

std::string file_word(const std::string& text) {
  std::string word;
  for (const char c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      word += c;
    } else if (!word.empty() && word.back() != '-') {
      word += '-';
    }
  }
  while (word.ends_with('-')) word.pop_back();
  return word;
}

}  // namespace

std::optional<CardInfo> usable_card(int device) {
  if (!build_info().cuda_architectures) return std::nullopt;
  return visible_card(nvml_cards(nvml()), std::getenv("CUDA_VISIBLE_DEVICES"), device);
}

std::string machine_label(const std::optional<CardInfo>& card) {
  if (card) return fmt::format("{} {}", card->name, card->uuid);
  const auto cpu = capture_environment({.cards = std::vector<CardInfo>{}}).at("host").at("cpu");
  return cpu.is_string() ? cpu.get<std::string>() : "CPU";
}

fs::path ceilings_path(const std::optional<CardInfo>& card) {
  const fs::path folder = user_cache_dir();
  if (folder.empty()) return {};
  if (card) return folder / fmt::format("ceilings-{}.json", file_word(card->uuid));
  return folder / fmt::format("ceilings-cpu-{}-{}.json", file_word(machine_label(card)),
                              std::thread::hardware_concurrency());
}

std::optional<Ceilings> stored_ceilings(const std::optional<CardInfo>& card) {
  const fs::path path = ceilings_path(card);
  if (path.empty() || !fs::exists(path)) return std::nullopt;
  try {
    const nlohmann::json kept = parse_json(read_file(path));
    auto stored = kept.get<Ceilings>();
    if (stored.machine != machine_label(card) || !contradictions(stored).empty()) return std::nullopt;
    if (!kept.contains("cache_bytes") && stored.doubt.empty())
      stored.doubt = "kept by a version that did not write down the size of the cache";
    if (card) stored.link_gbs = nvlink_gbs(*card);
    return stored;
  } catch (const Error&) {
    return std::nullopt;  // of another version, or damaged: measured again
  }
}

namespace {

/// Throws Error with the reason why there are none.
Ceilings measured_ceilings(const fs::path& suite, const std::optional<CardInfo>& card, int device) {
  std::string text;
  const ProcessEnd end =
      run_process({.command = {suite, "--measure-ceilings", "--engine",
                               card ? "cuda" : std::string(kTruthEngine), "--device", std::to_string(device)},
                   .on_line = [&](const std::string& line) { text += line + "\n"; },
                   .allowed_s = [] { return kMeasureAllowed_s; }});
  if (end.how == ProcessEnd::How::kInterrupted) throw Interrupted("interrupted");
  if (!end.clean())
    throw Error(fmt::format("suite_limits {}{}{}", end.describe(), end.talk.empty() ? "" : ": ", end.talk));
  const auto ceilings = [&] {
    try {
      return parse_json(text).get<Ceilings>();
    } catch (const std::exception& e) {
      throw Error(fmt::format("suite_limits: {}", e.what()));
    }
  }();
  if (ceilings.machine != machine_label(card)) {
    throw Error(fmt::format("suite_limits measured '{}', not '{}'", ceilings.machine, machine_label(card)));
  }
  return ceilings;
}

void keep(const Ceilings& ceilings, const std::optional<CardInfo>& card) {
  const fs::path path = ceilings_path(card);
  if (path.empty()) return;
  fs::create_directories(path.parent_path());
  write_file_atomic(path, nlohmann::json(ceilings).dump(1) + "\n");
}

}  // namespace

std::optional<Ceilings> obtain_ceilings(const fs::path& bin_dir, const std::optional<CardInfo>& card,
                                        int device) {
  const auto stored = stored_ceilings(card);
  if (stored && stored->doubt.empty()) return stored;
  const fs::path suite = bin_dir / "suite_limits";
  auto without = [](const std::string& why) {
    say(fmt::format("no ceilings, so no floors: {}", why));
    return std::nullopt;
  };
  if (!fs::exists(suite)) return without(fmt::format("{} is not there to measure them", suite.string()));
  if (stored) say(fmt::format("the ceilings of {} are in question: {}", stored->measured_at, stored->doubt));
  constexpr int kTries = 2;
  for (int i = 1;; ++i) {
    remark(fmt::format("measuring the ceilings of {} ({})", card ? card->name : "this CPU",
                       i == 1 ? "once, within a minute" : "again"));
    try {
      Ceilings ceilings = measured_ceilings(suite, card, device);
      const auto wrong = contradictions(ceilings);
      if ((!wrong.empty() || !ceilings.doubt.empty()) && i < kTries) {
        say(fmt::format("not believed: {}",
                        wrong.empty() ? ceilings.doubt : fmt::format("{}", fmt::join(wrong, "; "))));
        continue;
      }
      if (!wrong.empty())
        return without(
            fmt::format("measured {} times, they contradict themselves: {}", i, fmt::join(wrong, "; ")));
      if (!ceilings.doubt.empty())
        say(fmt::format("floors are in question, and measured again by the next run: {}", ceilings.doubt));
      keep(ceilings, card);
      return ceilings;
    } catch (const Interrupted&) {
      throw;
    } catch (const std::exception& e) {
      return without(e.what());
    }
  }
}

void doubt_ceilings(const std::optional<CardInfo>& card, const std::string& why) {
  auto stored = stored_ceilings(card);
  if (!stored) return;
  stored->doubt = why;
  try {
    keep(*stored, card);
  } catch (const std::exception&) {
    // A cache that cannot be written costs a warning in lists only.
  }
}

}  // namespace tandem
