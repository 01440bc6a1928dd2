#include "harness/run/ranks/ranked_trace.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

namespace tandem {
namespace {

using nlohmann::json;

class TraceOfAllRanks : public TraceSource, public TracesOfRanks {
 public:
  TraceOfAllRanks(RankTeam& team, TraceSource& own) : team_(team), own_(own) {}

  std::string unavailable() const override { return own_.unavailable(); }
  void start() override {
    team_.together({{"call", "trace_start"}}, [&] { own_.start(); });
  }
  Trace stop() override {
    Trace trace;
    team_.together({{"call", "trace_stop"}}, [&] { trace = own_.stop(); });
    return trace;
  }
  json keep(const std::string& run_dir, const json& about) override {
    json ranks = json::array();
    for (json& answer :
         team_.together({{"call", "trace_keep"}, {"run_dir", run_dir}, {"about", about}}, [] {})) {
      ranks.push_back(std::move(answer.at("trace")));
    }
    return ranks;
  }

 private:
  RankTeam& team_;
  TraceSource& own_;
};

}  // namespace

std::unique_ptr<TraceSource> trace_all_ranks(RankTeam& team, TraceSource& own) {
  return std::make_unique<TraceOfAllRanks>(team, own);
}

int64_t RankTracer::now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void RankTracer::start() {
  replays_.clear();
  source_->start();
  recording_ = true;
}

void RankTracer::stop() {
  recording_ = false;
  trace_ = source_->stop();
}

json RankTracer::keep(int rank, const std::string& run_dir, json about) {
  const std::string file = fmt::format("traces/{}-{}-rank{}.json", about.at("id").get<std::string>(),
                                       about.at("pass").get<std::string>(), rank);
  about["rank"] = rank;
  json whole = keep_trace(std::move(trace_), std::move(replays_), run_dir, file, about);
  json line = {{"rank", rank}};
  for (const char* field :
       {"status", "reason", "records", "busy_us", "gaps_us", "event_us", "phases", "trace"}) {
    line[field] = std::move(whole.at(field));
  }
  return line;
}

}  // namespace tandem
