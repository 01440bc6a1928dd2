#include "harness/run/ranks/team.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <thread>

#include "harness/base/json_text.h"
#include "harness/base/sha256.h"
#include "harness/run/ranks/wire.h"

namespace tandem {
namespace {

using nlohmann::json;

constexpr double kEnd_s = 2;  // from the end of a connection to that of a process that is well

std::string own_program() {
  return std::filesystem::read_symlink("/proc/self/exe").string();
}

/// Ranks of one host share its cores; OpenMP's threads that wait must not take them from each other.
std::map<std::string, std::string> share_of_cores(int ranks) {
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  std::map<std::string, std::string> set;
  if (std::getenv("OMP_NUM_THREADS") == nullptr) {
    set["OMP_NUM_THREADS"] = std::to_string(std::max(1u, cores / static_cast<unsigned>(ranks)));
  }
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) set["OMP_WAIT_POLICY"] = "passive";
  return set;
}

RankLost lost_for(int rank, const ProcessEnd& end) {
  return {rank, end.how == ProcessEnd::How::kSignalled ? "was " + end.describe() : end.describe()};
}

}  // namespace

std::string own_build() {
  static const std::string build = sha256_file_hex(own_program());
  return build;
}

RankTeam::RankTeam(int ranks, const RankLaunch& launch) : wait_s_(launch.wait_s) {
  JoinOptions options{.rank = 0, .size = ranks, .wait_s = launch.wait_s, .join_s = launch.join_s};
  if (launch.launched) {
    if (launch.launched->size != ranks) {
      throw UsageError(fmt::format("tp x dp: {} ranks contradict {} {}", ranks, launch.launched->by,
                                   launch.launched->size));
    }
    options.build = own_build();
    world_ = join_ranks(launch.launched->rendezvous, std::move(options));
    return;
  }
  std::vector<std::string> command = launch.command;
  if (command.empty()) command = {own_program()};
  options.build = sha256_file_hex(command[0]);
  const Listener listener = listen_at(new_local_address());
  for (int r = 1; r < ranks; ++r) {
    std::vector<std::string> words = command;
    for (const auto& [flag, value] : std::initializer_list<std::pair<const char*, std::string>>{
             {"--rank", std::to_string(r)},
             {"--ranks", std::to_string(ranks)},
             {"--rendezvous", listener.address},
             {"--device", std::to_string(launch.device + r)}}) {
      words.insert(words.end(), {flag, value});
    }
    companions_.emplace_back(words, share_of_cores(ranks));
  }
  options.look = [this] {
    for (size_t i = 0; i < companions_.size(); ++i) {
      if (const auto end = companions_[i].end()) throw lost_for(static_cast<int>(i) + 1, *end);
    }
  };
  world_ = join_as_first(listener, std::move(options));
}

RankTeam::~RankTeam() {
  world_.reset();  // they notice, and end
  const double until = steady_s() + kEnd_s;
  for (Companion& companion : companions_) {
    while (!companion.end() && steady_s() < until) ::usleep(2'000);
  }
}

void RankTeam::throw_lost(const RankLost& lost) {
  const auto i = static_cast<size_t>(lost.rank() - 1);
  if (lost.rank() < 1 || i >= companions_.size()) throw RankLost(lost);
  for (const double until = steady_s() + kEnd_s; steady_s() < until; ::usleep(10'000)) {
    if (const auto end = companions_[i].end()) throw lost_for(lost.rank(), *end);
  }
  throw RankLost(lost);
}

std::vector<json> RankTeam::answers(double wait_s) {
  std::vector<json> all;
  for (int r = 1; r < size(); ++r) all.push_back(parse_json(world_->receive_text(r, wait_s)));
  return all;
}

std::vector<json> RankTeam::together(const json& command, const std::function<void()>& own) {
  if (!usable_) throw Error("ranks: a call of this team has failed before");
  usable_ = false;
  std::exception_ptr thrown;
  std::vector<json> all;
  try {
    const std::string text = command.dump();
    for (int r = 1; r < size(); ++r) world_->send_text(r, text);
    const double start = steady_s();
    try {
      own();
    } catch (const CudaError&) {
      throw;  // sticky: this process is beyond use
    } catch (const RankLost&) {
      throw;
    } catch (const RankAnswered& a) {
      throw_error_of(parse_json(a.text()).at("error"), a.rank());
    } catch (const Error&) {
      // What one rank cannot do, none can: the others say so too, unless they wait for this one in a collective operation.
      thrown = std::current_exception();
    }
    // As long as it took here, and more.
    all = answers(2 * wait_s_ + 2 * (steady_s() - start));
  } catch (const RankLost& lost) {
    throw_lost(lost);
  }
  bool in_step = true;
  for (const json& answer : all) {
    const json error = answer.value("error", json());
    if (!error.is_null()) in_step &= error.at("kind") == "impossible" || error.at("kind") == "oom";
  }
  usable_ = in_step;
  if (thrown) std::rethrow_exception(thrown);
  for (size_t i = 0; i < all.size(); ++i) {
    const json error = all[i].value("error", json());
    if (error.is_null()) continue;
    try {
      throw_error_of(error, static_cast<int>(i) + 1);
    } catch (const RankLost& lost) {
      throw_lost(lost);
    }
  }
  return all;
}

}  // namespace tandem
