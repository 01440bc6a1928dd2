#include "harness/parallel/socket_communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "harness/parallel/collective_call.h"

namespace tandem {
namespace {

constexpr double kHearWait_s = 3;  // what a rank may take to say hello, or to take an answer

/// Others wait longer than rank 0, so that they hear from it which rank was silent.
double others_wait_s(double wait_s) {
  return wait_s + std::max(0.5, 0.3 * wait_s);
}

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// "2 4 <build>": rank, size and build. Throws PeerGone for what is no hello.
struct Hello {
  int rank = 0, size = 0;
  std::string build;
};

std::string hello_text(const Hello& h) {
  return fmt::format("{} {} {}", h.rank, h.size, h.build);
}

Hello parse_hello(const std::string& text) {
  Hello h;
  int used = 0;
  if (std::sscanf(text.c_str(), "%d %d %n", &h.rank, &h.size, &used) != 2) throw PeerGone("said no hello");
  h.build = text.substr(static_cast<size_t>(used));
  return h;
}

/// Why `other` cannot be a rank beside rank 0; empty if it can.
std::string contradiction(const JoinOptions& own, const Hello& other, bool came_before) {
  if (other.size != own.size) {
    return fmt::format("ranks: rank {} was started as one of {}, rank 0 as one of {}", other.rank, other.size,
                       own.size);
  }
  if (other.rank < 1 || other.rank >= own.size) {
    return fmt::format("ranks: a process came as rank {}, which is not from 1 to {}", other.rank,
                       own.size - 1);
  }
  if (came_before) return fmt::format("ranks: two processes came as rank {}", other.rank);
  if (other.build != own.build) {
    return fmt::format(
        "ranks: rank {} runs another build (SHA-256 {:.12}) than rank 0 ({:.12}); all need the same binary",
        other.rank, other.build, own.build);
  }
  return {};
}

void check_place(const JoinOptions& o) {
  if (o.size < 1) throw UsageError(fmt::format("ranks: {} is not 1 or more", o.size));
  if (o.rank < 0 || o.rank >= o.size) {
    throw UsageError(fmt::format("rank: {} is not from 0 to {}", o.rank, o.size - 1));
  }
}

/// Those that have come, and those that have connected without a hello yet.
struct Arrivals {
  struct Guest {
    Socket socket;
    FrameReader reader;
    double since_s = now_s();
  };
  std::vector<Guest> guests;
  std::vector<Socket> ranks;

  void refuse_all(const std::string& why) {
    for (const Socket& s : ranks) {
      if (s.open()) refuse(s, why);
    }
  }
  static void refuse(const Socket& s, const std::string& why) {
    try {
      write_frame(s, FrameKind::kRefused, {}, why, kHearWait_s);
    } catch (const PeerGone&) {  // it will not come anyway
    }
  }

  /// A process that says no hello in time, or something else, is no rank: it is left out.
  void hear(const JoinOptions& own) {
    std::vector<Guest> waiting;
    for (Guest& guest : guests) {
      try {
        const auto frame = guest.reader.take(guest.socket);
        if (!frame) {
          if (now_s() - guest.since_s < kHearWait_s) waiting.push_back(std::move(guest));
          continue;
        }
        if (frame->kind != FrameKind::kHello) continue;
        const Hello hello = parse_hello(frame->payload);
        const bool before = hello.rank > 0 && hello.rank < own.size && ranks[hello.rank].open();
        if (const std::string why = contradiction(own, hello, before); !why.empty()) {
          refuse(guest.socket, why);
          throw UsageError(why);
        }
        ranks[hello.rank] = std::move(guest.socket);
      } catch (const PeerGone&) {
      }
    }
    guests = std::move(waiting);
  }

  int first_missing() const {
    for (size_t r = 1; r < ranks.size(); ++r) {
      if (!ranks[r].open()) return static_cast<int>(r);
    }
    return -1;
  }
};

size_t given_bytes(const CollectiveCall& call, int rank) {
  if (call.kind == CollectiveKind::kBroadcast && call.root != rank) return 0;
  return static_cast<size_t>(call.bytes);
}

}  // namespace

RankAnswered::RankAnswered(int rank, std::string text)
    : Error(fmt::format("rank {} left the operation: {}", rank, text)), rank_(rank), text_(std::move(text)) {}

SocketCommunicator::SocketCommunicator(JoinOptions options) : options_(std::move(options)) {}

void SocketCommunicator::tell_others(FrameKind kind, const std::string& why) noexcept {
  if (options_.rank != 0) return;
  for (const Socket& s : peers_) {
    try {
      if (s.open()) write_frame(s, kind, {}, why, 0.1);
    } catch (...) {  // it will notice by itself
    }
  }
}

void SocketCommunicator::lose(int rank, const std::string& why) {
  const int named = options_.first_rank + rank;
  if (options_.rank == 0) peers_[rank] = Socket();
  tell_others(FrameKind::kLost, fmt::format("{} {}", named, why));
  throw RankLost(named, why);
}

/// Rank 0: what every rank gives.
std::vector<std::string> SocketCommunicator::gather(const CollectiveCall& call, std::string mine) {
  std::vector<std::string> given(peers_.size());
  given[0] = std::move(mine);
  std::vector<FrameReader> readers(peers_.size());
  std::vector<const Socket*> pending;
  for (const Socket& s : peers_) pending.push_back(&s);
  static const Socket none;
  const double deadline = now_s() + options_.wait_s;
  for (;;) {
    const auto missing = std::find_if(pending.begin() + 1, pending.end(), [](auto* s) { return s != &none; });
    if (missing == pending.end()) return given;
    const double left = deadline - now_s();
    if (left <= 0) {
      lose(static_cast<int>(missing - pending.begin()),
           fmt::format("was silent for {:g} s", options_.wait_s));
    }
    for (const size_t r : readable(pending, left)) {
      const int rank = static_cast<int>(r);
      try {
        auto frame = readers[r].take(peers_[r]);
        if (!frame) continue;
        if (frame->kind == FrameKind::kText) {
          throw RankAnswered(options_.first_rank + rank, frame->payload);
        }
        check_same_call(options_.first_rank, call, options_.first_rank + rank, frame->call);
        if (frame->kind != FrameKind::kData || frame->payload.size() != given_bytes(call, rank)) {
          throw PeerGone("does not speak the ranks' language");
        }
        given[r] = std::move(frame->payload);
        pending[r] = &none;
      } catch (const PeerGone& e) {
        lose(rank, e.what());
      }
    }
  }
}

/// Other ranks: what rank 0 answers.
std::string SocketCommunicator::ask(const CollectiveCall& call, const std::string& mine) {
  const int first = options_.first_rank;
  try {
    write_frame(peers_[0], FrameKind::kData, call, mine, options_.wait_s);
  } catch (const PeerGone&) {  // what it said before it went can still be read
  }
  try {
    Frame frame = read_frame(peers_[0], others_wait_s(options_.wait_s));
    if (frame.kind == FrameKind::kLost) {
      const size_t space = frame.payload.find(' ');
      throw RankLost(std::stoi(frame.payload), frame.payload.substr(space + 1));
    }
    if (frame.kind == FrameKind::kFailed) throw Error(frame.payload);
    if (frame.kind != FrameKind::kResult || frame.call != call) {
      throw PeerGone("does not speak the ranks' language");
    }
    return std::move(frame.payload);
  } catch (const PeerGone& e) {
    throw RankLost(first, e.what());
  }
}

std::string SocketCommunicator::exchange(const CollectiveCall& call, std::string mine,
                                         const Combine& combine) {
  if (broken_) throw Error("ranks: an operation of this group has failed before");
  broken_ = true;
  std::string result = exchange_by_star(call, std::move(mine), combine);
  broken_ = false;
  return result;
}

std::string SocketCommunicator::exchange_by_star(const CollectiveCall& call, std::string mine,
                                                 const Combine& combine) {
  if (options_.size == 1) {
    std::vector<std::string> given = {std::move(mine)};
    return combine(given);
  }
  if (options_.rank != 0) return ask(call, mine);
  std::string result;
  try {
    std::vector<std::string> given = gather(call, std::move(mine));
    result = combine(given);
  } catch (const RankLost&) {
    throw;  // the others know
  } catch (const Error& e) {
    tell_others(FrameKind::kFailed, e.what());
    throw;
  }
  for (int r = 1; r < options_.size; ++r) {
    try {
      write_frame(peers_[r], FrameKind::kResult, call, result, options_.wait_s);
    } catch (const PeerGone& e) {
      lose(r, e.what());
    }
  }
  return result;
}

void SocketCommunicator::all_reduce_sum(void* data, int64_t count, DType dtype, void*) {
  const auto bytes = static_cast<size_t>(tensor_bytes(dtype, count));
  const std::string result =
      exchange({.kind = CollectiveKind::kAllReduce, .dtype = dtype, .bytes = static_cast<int64_t>(bytes)},
               std::string(static_cast<const char*>(data), bytes), [&](std::vector<std::string>& given) {
                 std::vector<const void*> inputs;
                 for (const std::string& g : given) inputs.push_back(g.data());
                 std::string sum(bytes, '\0');
                 sum_in_rank_order(inputs, sum.data(), count, dtype);
                 return sum;
               });
  std::memcpy(data, result.data(), bytes);
}

void SocketCommunicator::all_gather(const void* mine, void* all, int64_t bytes, void*) {
  const std::string result = exchange({.kind = CollectiveKind::kAllGather, .bytes = bytes},
                                      std::string(static_cast<const char*>(mine), static_cast<size_t>(bytes)),
                                      [&](std::vector<std::string>& given) {
                                        std::string joined;
                                        for (const std::string& g : given) joined += g;
                                        return joined;
                                      });
  std::memcpy(all, result.data(), result.size());
}

void SocketCommunicator::broadcast(void* data, int64_t bytes, int root, void*) {
  const CollectiveCall call = {
      .kind = CollectiveKind::kBroadcast, .root = static_cast<uint16_t>(root), .bytes = bytes};
  const std::string result =
      exchange(call, std::string(static_cast<const char*>(data), given_bytes(call, options_.rank)),
               [&](std::vector<std::string>& given) { return std::move(given[static_cast<size_t>(root)]); });
  std::memcpy(data, result.data(), result.size());
}

void SocketCommunicator::barrier(void*) {
  exchange({}, {}, [](std::vector<std::string>&) { return std::string(); });
}

void SocketCommunicator::send_text(int other, const std::string& text) {
  try {
    write_frame(peers_.at(static_cast<size_t>(other)), FrameKind::kText, {}, text, options_.wait_s);
  } catch (const PeerGone& e) {
    lose(other, e.what());
  }
}

std::string SocketCommunicator::receive_text(int other, std::optional<double> wait_s) {
  try {
    Frame frame = read_frame(peers_.at(static_cast<size_t>(other)), wait_s);
    if (frame.kind != FrameKind::kText) throw Error(fmt::format("rank {} sent no message", other));
    return std::move(frame.payload);
  } catch (const PeerGone& e) {
    lose(other, e.what());
  }
}

std::unique_ptr<SocketCommunicator> join_as_first(const Listener& listener, JoinOptions options) {
  check_place(options);
  Arrivals arrivals;
  arrivals.ranks.resize(static_cast<size_t>(options.size));
  const double deadline = now_s() + options.join_s;
  try {
    for (int missing; (missing = arrivals.first_missing()) > 0;) {
      if (now_s() >= deadline) {
        throw RankLost(options.first_rank + missing,
                       fmt::format("did not come to {} within {:g} s", listener.address, options.join_s));
      }
      if (options.look) options.look();
      std::vector<const Socket*> ears = {&listener.socket};
      for (const Arrivals::Guest& guest : arrivals.guests) ears.push_back(&guest.socket);
      if (readable(ears, 0.05).empty()) {
        arrivals.hear(options);
        continue;
      }
      if (auto socket = accept_from(listener))
        arrivals.guests.push_back({.socket = std::move(*socket), .reader = {}});
      arrivals.hear(options);
    }
  } catch (const Error& e) {
    arrivals.refuse_all(e.what());
    throw;
  }
  std::unique_ptr<SocketCommunicator> joined(new SocketCommunicator(std::move(options)));
  joined->peers_ = std::move(arrivals.ranks);
  for (size_t r = 1; r < joined->peers_.size(); ++r) {
    try {
      write_frame(joined->peers_[r], FrameKind::kWelcome, {}, "", kHearWait_s);
    } catch (const PeerGone& e) {
      joined->lose(static_cast<int>(r), e.what());
    }
  }
  return joined;
}

std::unique_ptr<SocketCommunicator> join_ranks(const std::string& address, JoinOptions options) {
  check_place(options);
  if (options.rank == 0) return join_as_first(listen_at(address), std::move(options));
  const double deadline = now_s() + options.join_s;
  std::string why;
  std::optional<Socket> socket;
  while (!(socket = connect_to(address, &why))) {
    if (now_s() >= deadline) {
      throw RankLost(options.first_rank,
                     fmt::format("did not answer at {} within {:g} s: {}", address, options.join_s, why));
    }
    readable({}, 0.05);  // sleeps
  }
  try {
    write_frame(*socket, FrameKind::kHello, {}, hello_text({options.rank, options.size, options.build}),
                options.wait_s);
    const Frame answer = read_frame(*socket, std::max(0.0, deadline - now_s()) + kHearWait_s);
    if (answer.kind == FrameKind::kRefused) throw UsageError(answer.payload);
    if (answer.kind == FrameKind::kLost) throw Error(answer.payload);
    if (answer.kind != FrameKind::kWelcome) throw PeerGone("does not speak the ranks' language");
  } catch (const PeerGone& e) {
    throw RankLost(options.first_rank, e.what());
  }
  std::unique_ptr<SocketCommunicator> joined(new SocketCommunicator(std::move(options)));
  joined->peers_.push_back(std::move(*socket));
  return joined;
}

std::unique_ptr<SocketCommunicator> SocketCommunicator::join_replica(const RankGroup& group) {
  // Every first rank of a replica listens before any address is known.
  std::optional<Listener> listener;
  if (group.tensor_rank == 0 && group.tp > 1) {
    listener = listen_at(new_address_beside(options_.rank == 0 ? peers_.back() : peers_[0]));
  }
  const auto addresses = all_gather_text(*this, listener ? listener->address : "");
  JoinOptions own = options_;
  own.rank = group.tensor_rank;
  own.size = group.tp;
  own.first_rank = group.replica * group.tp;
  if (listener) return join_as_first(*listener, std::move(own));
  if (group.tp == 1) return std::unique_ptr<SocketCommunicator>(new SocketCommunicator(std::move(own)));
  return join_ranks(addresses[static_cast<size_t>(own.first_rank)], std::move(own));
}

std::vector<std::string> all_gather_text(Communicator& ranks, const std::string& mine) {
  const auto n = static_cast<size_t>(ranks.size());
  std::vector<int64_t> sizes(n);
  const auto own = static_cast<int64_t>(mine.size());
  ranks.all_gather(&own, sizes.data(), sizeof(own), nullptr);
  const auto most = static_cast<size_t>(*std::max_element(sizes.begin(), sizes.end()));
  std::string padded = mine, all(n * most, '\0');
  padded.resize(most);
  ranks.all_gather(padded.data(), all.data(), static_cast<int64_t>(most), nullptr);
  std::vector<std::string> texts;
  for (size_t r = 0; r < n; ++r) texts.push_back(all.substr(r * most, static_cast<size_t>(sizes[r])));
  return texts;
}

}  // namespace tandem
