// The ranks other than 0.
#include <fmt/format.h>

#include <exception>
#include <functional>
#include <iostream>
#include <map>
#include <optional>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/run/energy.h"
#include "harness/run/ranks/rank_facts.h"
#include "harness/run/ranks/ranked_clocks.h"
#include "harness/run/ranks/ranked_engine.h"
#include "harness/run/ranks/ranked_trace.h"
#include "harness/run/ranks/wire.h"
#include "harness/run/validate.h"
#include "harness/trace/tracer.h"

namespace tandem {
namespace {

using nlohmann::json;

class Follower {
 public:
  Follower(SocketCommunicator& world, const EngineRegistry& registry, EngineOptions options,
           const NvmlFunctions* functions)
      : world_(world), registry_(registry), options_(std::move(options)), functions_(functions) {}

  /// What this rank answers.
  json obey(const json& command) {
    const auto call = command.at("call").get<std::string>();
    if (call == "engine") return engine(command);
    if (call == "close") return close();
    if (call == "expect") return expect(command);
    if (call == "load") return load(command);
    if (call == "take") {
      engine_->take(static_cast<Inputs>(command.at("inputs").get<int>()));
      return json::object();
    }
    if (call == "untimed") {
      engine_->untimed(command.at("on").get<bool>());
      return json::object();
    }
    if (command.contains("workload")) return workload(call, command);
    if (call.starts_with("trace_")) return trace(call, command);
    if (call == "clocks") return {{"clocks", reading_to_json(read_rank(*clocks_))}};
    if (call == "joules") return {{"joules", optional_to_json(joules_())}};
    const TransformerBatch batch = batch_from_json(command.at("batch"));
    if (call == "forced_logits") {
      engine_->forced_logits(batch, command.at("tokens").get<std::vector<int32_t>>(),
                             command.at("steps").get<int>());
    } else if (call == "decode") {
      engine_->decode(batch, case_generation(loaded_, config_));
    } else if (call == "self_check") {
      engine_->self_check(case_from_json(command.at("case")), batch);
    } else {
      throw Error(fmt::format("no call '{}'", call));
    }
    return json::object();
  }

 private:
  struct Held {
    std::unique_ptr<Workload> workload;
    std::function<CheckResult()> check;
  };

  json close() {
    held_.clear();
    engine_.reset();
    return json::object();
  }

  json engine(const json& command) {
    close();
    // Before the engine is made: a tracer must be there when CUDA starts.
    if (!command.at("trace_level").is_null() && !tracer_) {
      tracer_.emplace(load_tracer({.level = static_cast<TraceLevel>(command.at("trace_level").get<int>())}));
    }
    seat_.group = rank_group(command.at("tp").get<int>(), command.at("dp").get<int>(), world_.rank());
    tensor_ = world_.join_replica(seat_.group);
    seat_.tensor = tensor_.get();
    options_.seat = &seat_;
    options_.run_dir = command.at("run_dir").get<std::string>();
    options_.may_search = command.at("may_search").get<bool>();
    options_.level1_bytes = command.at("level1_bytes").get<int64_t>();
    engine_ = registry_.make(command.at("engine").get<std::string>(), options_);
    const bool on_host = engine_->traits().on_host;
    const auto card = on_host
                          ? std::nullopt
                          : card_in_use(functions_, registry_.card_uuid(options_.device), options_.device);
    clocks_ = make_clock_reader(functions_, card);
    joules_ = energy_counter(functions_, card);
    return {{"facts", facts_to_json(rank_facts(registry_, engine_->traits(), world_.rank(), options_.device,
                                               functions_))}};
  }

  json expect(const json& command) {
    std::vector<Case> cases;
    for (const json& c : command.at("cases")) cases.push_back(case_from_json(c));
    engine_->expect(cases);
    return json::object();
  }

  json load(const json& command) {
    held_.clear();
    if (command.contains("scales")) {
      engine_->use_scales(std::make_shared<ChannelScales>(scales_from_json(command.at("scales"))));
    }
    loaded_ = case_from_json(command.at("case"));
    config_ = command.at("config").get<ModelConfig>();
    engine_->load(loaded_, config_, form_from_json(command.at("form")));
    return json::object();
  }

  json workload(const std::string& call, const json& command) {
    const int number = command.at("workload").get<int>();
    if (call == "prepare") {
      held_[number].workload =
          engine_->prepare(case_from_json(command.at("case")), batch_from_json(command.at("batch")));
      return json::object();
    }
    if (call == "prepare_op") {
      OpWorkload op =
          engine_->prepare_op(case_from_json(command.at("case")), command.at("config").get<ModelConfig>());
      held_[number] = {std::move(op.workload), std::move(op.check)};
      return json::object();
    }
    if (call == "drop") {
      held_.erase(number);
      return json::object();
    }
    Held& held = held_.at(number);
    if (call == "repeat" || call == "repeat_eager") {
      world_.barrier();
      const auto repeat = [&]() -> std::optional<Repetition> {
        if (call == "repeat_eager") return held.workload->repeat_eager();
        return held.workload->repeat();
      };
      const auto r = tracer_ ? tracer_->window(repeat) : repeat();
      return {{"repetition", r ? repetition_to_json(*r) : json()}};
    }
    if (call == "inter_token") held.workload->inter_token_us();
    if (call == "mark_clock") return {{"mhz", optional_to_json(held.workload->mark_clock())}};
    if (call == "output") return {{"digest", digest(held.workload->output())}};
    if (call == "check") return {{"check", check_result_to_json(held.check())}};
    return json::object();
  }

  json trace(const std::string& call, const json& command) {
    if (!tracer_ || !tracer_->unavailable().empty()) {
      throw Error(fmt::format("no tracer: {}", tracer_ ? tracer_->unavailable() : "none was asked for"));
    }
    if (call == "trace_start") tracer_->start();
    if (call == "trace_stop") tracer_->stop();
    if (call != "trace_keep") return json::object();
    return {{"trace",
             tracer_->keep(world_.rank(), command.at("run_dir").get<std::string>(), command.at("about"))}};
  }

  SocketCommunicator& world_;
  const EngineRegistry& registry_;
  EngineOptions options_;
  const NvmlFunctions* functions_;
  std::unique_ptr<ClockReader> clocks_;  // of an engine
  std::function<std::optional<double>()> joules_;
  std::optional<RankTracer> tracer_;  // before the engine: it outlives it
  RankSeat seat_;
  std::unique_ptr<SocketCommunicator> tensor_;
  std::unique_ptr<Engine> engine_;  // after what its seat points at
  std::map<int, Held> held_;        // after the engine: they are its
  Case loaded_;
  ModelConfig config_;
};

}  // namespace

int follow(SocketCommunicator& world, const EngineRegistry& registry, const EngineOptions& options,
           const NvmlFunctions* functions) {
  Follower follower(world, registry, options, functions);
  for (;;) {
    std::string text;
    try {
      text = world.receive_text(0, std::nullopt);
    } catch (const RankLost&) {
      return 0;  // rank 0 has ended, or is gone
    }
    json answer;
    bool over = false;
    try {
      answer = follower.obey(parse_json(text));
    } catch (const std::exception& e) {
      over = dynamic_cast<const CudaError*>(&e) != nullptr;  // sticky: only a new process recovers
      answer = {{"error", error_to_json(e)}};
    }
    try {
      world.send_text(0, answer.dump(-1, ' ', false, json::error_handler_t::replace));
    } catch (const RankLost&) {
      return 0;
    }
    if (over) return static_cast<int>(ExitCode::kFailed);
  }
}

}  // namespace tandem
