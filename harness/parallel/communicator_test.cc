#include "harness/parallel/communicator.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <thread>

#include "harness/base/half.h"
#include "harness/parallel/socket_communicator.h"

namespace tandem {
namespace {

enum class Kind { kThreads, kUnixSockets, kTcp };

/// Runs `body` as every rank, each on a thread of its own; what each threw, as text.
using Body = std::function<void(Communicator&)>;
std::vector<std::string> run_ranks(Kind kind, int size, double wait_s, const Body& body) {
  std::vector<std::unique_ptr<Communicator>> local(static_cast<size_t>(size));
  if (kind == Kind::kThreads) local = make_local_communicators(size, wait_s);
  const Listener listener = listen_at(kind == Kind::kTcp ? "127.0.0.1:0" : new_local_address());
  std::vector<std::string> thrown(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      try {
        std::unique_ptr<Communicator> c = std::move(local[r]);
        const JoinOptions options{.rank = r, .size = size, .build = "b", .wait_s = wait_s, .join_s = 20};
        if (!c) c = r == 0 ? join_as_first(listener, options) : join_ranks(listener.address, options);
        body(*c);
      } catch (const Error& e) {
        thrown[r] = e.what();
      }
    });
  }
  for (std::thread& t : threads) t.join();
  return thrown;
}

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Ranks : public testing::TestWithParam<Kind> {};
INSTANTIATE_TEST_SUITE_P(, Ranks, testing::Values(Kind::kThreads, Kind::kUnixSockets, Kind::kTcp));

// Breaks when the sum depends on who arrives first, ranks get different bits, or 16-bit sums are rounded at every step.
TEST_P(Ranks, SumsInRankOrderWithTheSameBits) {
  for (const int size : {1, 2, 3, 8}) {
    constexpr int kCount = 1000;
    std::vector<std::vector<float>> f32(static_cast<size_t>(size), std::vector<float>(kCount));
    std::vector<std::vector<uint16_t>> bf16(static_cast<size_t>(size)), f16(static_cast<size_t>(size));
    std::vector<float> want(kCount), want_bf16(kCount), want_f16(kCount);
    for (int r = 0; r < size; ++r) {
      for (int i = 0; i < kCount; ++i) {
        // Magnitudes far apart: another order gives another sum.
        const float v = static_cast<float>((i * 37 + r * 101) % 211 - 100) * (r % 3 == 1 ? 1e5f : 1.1f);
        f32[r][i] = v;
        want[i] = r == 0 ? v : want[i] + v;
        bf16[r].push_back(float_to_bf16(v));
        want_bf16[i] = (r == 0 ? 0.0f : want_bf16[i]) + bf16_to_float(bf16[r][i]);
        f16[r].push_back(float_to_fp16(v * 1e-3f));
        want_f16[i] = (r == 0 ? 0.0f : want_f16[i]) + fp16_to_float(f16[r][i]);
      }
    }
    const auto thrown = run_ranks(GetParam(), size, 10, [&](Communicator& c) {
      const int r = c.rank();
      EXPECT_EQ(c.size(), size);
      c.all_reduce_sum(f32[r].data(), kCount, DType::kF32, nullptr);
      c.all_reduce_sum(bf16[r].data(), kCount, DType::kBF16, nullptr);
      c.all_reduce_sum(f16[r].data(), kCount, DType::kF16, nullptr);
    });
    for (int r = 0; r < size; ++r) {
      EXPECT_EQ(thrown[r], "");
      EXPECT_EQ(std::memcmp(f32[r].data(), want.data(), kCount * sizeof(float)), 0) << r << " of " << size;
      for (int i = 0; i < kCount; ++i) {
        ASSERT_EQ(bf16[r][i], float_to_bf16(want_bf16[i])) << r << " of " << size;
        ASSERT_EQ(f16[r][i], float_to_fp16(want_f16[i])) << r << " of " << size;
      }
    }
  }
}

// Breaks when parts land in another rank's place, or a broadcast knows rank 0 as root only.
TEST_P(Ranks, GathersAndBroadcasts) {
  const auto thrown = run_ranks(GetParam(), 3, 10, [](Communicator& c) {
    const int r = c.rank();
    std::vector<int> all = {-1, -1, -1};
    all[r] = 10 + r;
    c.all_gather(&all[r], all.data(), sizeof(int), nullptr);  // in place
    EXPECT_EQ(all, (std::vector<int>{10, 11, 12}));
    for (int root = 0; root < 3; ++root) {
      std::string text = fmt::format("from {}", r);
      c.broadcast(text.data(), static_cast<int64_t>(text.size()), root, nullptr);
      EXPECT_EQ(text, fmt::format("from {}", root));
    }
    c.barrier(nullptr);
    EXPECT_EQ(all_gather_text(c, std::string(static_cast<size_t>(r), 'x')),
              (std::vector<std::string>{"", "x", "xx"}));
    std::vector<float> big(3 << 20, static_cast<float>(r));  // over what a socket holds
    c.all_reduce_sum(big.data(), static_cast<int64_t>(big.size()), DType::kF32, nullptr);
    EXPECT_EQ(big.front(), 3);
    EXPECT_EQ(big.back(), 3);
  });
  EXPECT_EQ(thrown, std::vector<std::string>(3));
}

// Breaks when a rank that died is waited for, or another one is named: whichever it is, first or last.
TEST_P(Ranks, ADeadRankIsNamedByAllOthersAtOnce) {
  for (int dead = 0; dead < 3; ++dead) {
    const double start = now_s();
    const auto thrown = run_ranks(GetParam(), 3, 60, [&](Communicator& c) {
      c.barrier(nullptr);
      if (c.rank() == dead) return;  // and is destroyed
      c.barrier(nullptr);
      ADD_FAILURE() << "met without rank " << dead;
    });
    EXPECT_LT(now_s() - start, 20);
    for (int r = 0; r < 3; ++r) {
      if (r == dead) continue;
      EXPECT_TRUE(thrown[r].starts_with(fmt::format("rank {} lost: it ", dead))) << thrown[r];
    }
  }
}

// Breaks when a rank that hangs is waited for without end, or those who wait with it name each other.
TEST_P(Ranks, ASilentRankIsNamedAfterTheWait) {
  for (const int silent : {0, 2}) {
    const auto thrown = run_ranks(GetParam(), 3, 0.8, [&](Communicator& c) {
      c.barrier(nullptr);
      if (c.rank() == silent) std::this_thread::sleep_for(std::chrono::milliseconds(2200));
      c.barrier(nullptr);
    });
    for (int r = 0; r < 3; ++r) {
      if (r == silent) continue;
      EXPECT_TRUE(thrown[r].starts_with(fmt::format("rank {} lost: it was silent for ", silent)))
          << r << ": " << thrown[r];
    }
  }
}

// Breaks when ranks that have lost their step read each other's bytes as something else, or hang.
TEST_P(Ranks, RanksThatDisagreeAreTold) {
  const auto thrown = run_ranks(GetParam(), 2, 20, [](Communicator& c) {
    std::vector<float> v(static_cast<size_t>(4 + c.rank()));
    c.all_reduce_sum(v.data(), static_cast<int64_t>(v.size()), DType::kF32, nullptr);
  });
  for (const std::string& t : thrown) {
    EXPECT_TRUE(t.starts_with("ranks disagree: ")) << t;
    EXPECT_NE(t.find("all_reduce_sum of 20 bytes (f32)"), std::string::npos) << t;
  }
}

// Breaks when sums of types that have no sum are made up.
TEST(Communicator, OtherTypesAreRefused) {
  const auto c = make_single_communicator();
  int v = 1;
  try {
    c->all_reduce_sum(&v, 1, DType::kI32, nullptr);
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_STREQ(e.what(), "all_reduce: i32 is not allowed; f32, f16 or bf16");
  }
}

struct Came {
  std::string address;
  std::vector<std::string> thrown;
};

/// Processes that come with `options` each, the first one listening.
Came meet(const std::vector<JoinOptions>& options,
          const std::function<void(const std::string&)>& before = {}) {
  const Listener listener = listen_at("127.0.0.1:0");
  Came came{.address = listener.address, .thrown = std::vector<std::string>(options.size())};
  if (before) before(listener.address);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < options.size(); ++i) {
    threads.emplace_back([&, i] {
      try {
        const auto c = i == 0 ? join_as_first(listener, options[0]) : join_ranks(came.address, options[i]);
        c->barrier();
      } catch (const Error& e) {
        came.thrown[i] = e.what();
      }
    });
  }
  for (std::thread& t : threads) t.join();
  return came;
}

// Breaks when ranks that cannot work together start, or wait until somebody kills them.
TEST(Rendezvous, WhatContradictsIsNamedOnBothSides) {
  const auto both_say = [](const std::vector<JoinOptions>& options, const std::string& want) {
    const Came came = meet(options);
    EXPECT_EQ(came.thrown.front(), want);
    EXPECT_EQ(came.thrown.back(), want);
  };
  const std::string a(64, 'a'), b(64, 'b');
  both_say({{.rank = 0, .size = 2, .build = a}, {.rank = 1, .size = 2, .build = b}},
           "ranks: rank 1 runs another build (SHA-256 bbbbbbbbbbbb) than rank 0 (aaaaaaaaaaaa); all need the "
           "same binary");
  both_say({{.rank = 0, .size = 2}, {.rank = 1, .size = 4}},
           "ranks: rank 1 was started as one of 4, rank 0 as one of 2");
  const Came twice = meet({{.rank = 0, .size = 3}, {.rank = 1, .size = 3}, {.rank = 1, .size = 3}});
  EXPECT_EQ(twice.thrown, std::vector<std::string>(3, "ranks: two processes came as rank 1"));
}

// Breaks when a rank that never starts, or a first one that never listens, holds the others for ever.
TEST(Rendezvous, WhoDoesNotComeIsNamed) {
  const Came came = meet({{.rank = 0, .size = 3, .join_s = 0.5}, {.rank = 1, .size = 3, .join_s = 5}});
  EXPECT_EQ(came.thrown[0], fmt::format("rank 2 lost: it did not come to {} within 0.5 s", came.address));
  EXPECT_EQ(came.thrown[1], came.thrown[0]);
  try {
    join_ranks("unix:@tandem-nobody-listens", {.rank = 1, .size = 2, .join_s = 0.2});
    FAIL();
  } catch (const RankLost& e) {
    EXPECT_EQ(e.rank(), 0);
    EXPECT_STREQ(
        e.what(),
        "rank 0 lost: it did not answer at unix:@tandem-nobody-listens within 0.2 s: Connection refused");
  }
}

// Breaks when a stranger at the port (a scanner, a browser) ends the run or takes a rank's place.
TEST(Rendezvous, StrangersAreLeftOut) {
  std::vector<Socket> strangers;
  const Came came = meet({{.rank = 0, .size = 2}, {.rank = 1, .size = 2}}, [&](const std::string& address) {
    std::string why;
    for (const char* says : {"GET / HTTP/1.1\r\nHost: somewhere.example\r\n\r\n", ""}) {
      strangers.push_back(connect_to(address, &why).value());
      ASSERT_EQ(::send(strangers.back().fd(), says, strlen(says), 0), static_cast<ssize_t>(strlen(says)));
    }
  });
  EXPECT_EQ(came.thrown, std::vector<std::string>(2));
}

// Breaks when a bad address is waited for instead of refused, or the message does not say what is allowed.
TEST(Rendezvous, BadAddressesAreNamed) {
  for (const char* address :
       {"", "host", "host:", "host:x", "host:70000", ":5", "unix:", "unix:relative", "h:0"}) {
    try {
      join_ranks(address, {.rank = 1, .size = 2, .join_s = 5});
      FAIL() << address;
    } catch (const UsageError& e) {
      EXPECT_NE(
          std::string(e.what()).find("is not allowed; HOST:PORT, [ADDRESS]:PORT, unix:/PATH or unix:@NAME"),
          std::string::npos)
          << e.what();
    }
  }
  EXPECT_THROW(join_ranks("127.0.0.1:1", {.rank = 2, .size = 2}), UsageError);
}

// Breaks when a replica's sum takes in another replica's ranks, or its errors name the place within the replica.
TEST(Rendezvous, ReplicasHaveGroupsOfTheirOwn) {
  for (const Kind kind : {Kind::kUnixSockets, Kind::kTcp}) {
    const auto thrown = run_ranks(kind, 4, 10, [](Communicator& c) {
      auto& world = dynamic_cast<SocketCommunicator&>(c);
      const RankGroup group = rank_group(2, 2, c.rank());
      const auto tensor = world.join_replica(group);
      auto sum = static_cast<float>(1 << c.rank());
      tensor->all_reduce_sum(&sum, 1, DType::kF32);
      EXPECT_EQ(sum, group.replica == 0 ? 3 : 12);
      EXPECT_EQ(tensor->rank(), group.tensor_rank);
      world.barrier();
      if (c.rank() == 3) return;
      tensor->barrier();
      if (group.replica == 1) tensor->barrier();
    });
    EXPECT_EQ(thrown[0], "");
    EXPECT_TRUE(thrown[2].starts_with("rank 3 lost: it closed its connection")) << thrown[2];
  }
  // One rank a replica has nothing to exchange.
  const auto thrown = run_ranks(Kind::kUnixSockets, 2, 10, [](Communicator& c) {
    const auto tensor = dynamic_cast<SocketCommunicator&>(c).join_replica(rank_group(1, 2, c.rank()));
    float v = 2;
    tensor->all_reduce_sum(&v, 1, DType::kF32);
    EXPECT_EQ(v, 2);
  });
  EXPECT_EQ(thrown, std::vector<std::string>(2));
}

// Breaks when what a failed rank says is taken for data, or the others are not told.
TEST(Rendezvous, MessagesPassAndAnAnswerEndsAnOperation) {
  const auto thrown = run_ranks(Kind::kUnixSockets, 3, 10, [](Communicator& c) {
    auto& world = dynamic_cast<SocketCommunicator&>(c);
    if (c.rank() == 0) {
      for (int r : {1, 2}) world.send_text(r, fmt::format("to {}", r));
      EXPECT_EQ(world.receive_text(2, 5), "hello");
    } else {
      EXPECT_EQ(world.receive_text(0, std::nullopt), fmt::format("to {}", c.rank()));
      if (c.rank() == 2) world.send_text(0, "hello");
    }
    if (c.rank() == 1) return world.send_text(0, "out of memory");
    c.barrier(nullptr);
  });
  EXPECT_EQ(thrown[0], "rank 1 left the operation: out of memory");
  EXPECT_EQ(thrown[2], thrown[0]);
}

}  // namespace
}  // namespace tandem
