#include "harness/base/process.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>

namespace tandem {
namespace {

struct Ran {
  ProcessEnd end;
  std::vector<std::string> lines;
};

Ran sh(const std::string& script, double allowed_s = 20) {
  Ran ran;
  ran.end = run_process({.command = {"/bin/sh", "-c", script},
                         .on_line = [&](const std::string& line) { ran.lines.push_back(line); },
                         .allowed_s = [=] { return allowed_s; }});
  return ran;
}

// Without it a failure would be recorded under the wrong name, or a line lost.
TEST(Process, LinesTalkAndTheEnd) {
  Ran r = sh("echo one; echo talk >&2; printf 'two\\nunfinished'; exit 7");
  EXPECT_EQ(r.lines, (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(r.end.talk, "talk");
  EXPECT_EQ(r.end.describe(), "exited with code 7");
  EXPECT_FALSE(r.end.clean());
  r = sh("kill -ABRT $$");
  EXPECT_EQ(r.end.describe(), "killed by SIGABRT");
  r = sh("read line; echo \"got $line.\"");
  EXPECT_EQ(r.lines, std::vector<std::string>{"got ."}) << "stdin is empty";
  EXPECT_TRUE(r.end.clean());
  r = sh("i=0; while [ $i -lt 2000 ]; do echo line $i >&2; i=$((i+1)); done");
  EXPECT_LE(r.end.talk.size(), kTalkBytes);
  EXPECT_TRUE(r.end.talk.ends_with("line 1998\nline 1999"));
  EXPECT_TRUE(r.end.talk.starts_with("line "));
}

// Without it a slow but living worker would be killed, or a hanging one waited for.
TEST(Process, TheTimeOutStartsAnewAtEveryLine) {
  const double start = steady_s();
  Ran r = sh("for i in 1 2 3 4; do sleep 0.15; echo $i; done", 0.4);
  EXPECT_TRUE(r.end.clean());
  EXPECT_EQ(r.lines.size(), 4u);
  r = sh("echo 1; exec sleep 60", 0.2);
  EXPECT_EQ(r.end.describe(), "printed nothing for 0.2 s");
  EXPECT_LT(steady_s() - start, 20);
}

// Without it a process that a worker leaves behind would hold the driver for ever.
TEST(Process, AGrandchildThatHoldsThePipesIsKilled) {
  const double start = steady_s();
  const Ran r = sh("sleep 60 & echo $!");
  EXPECT_TRUE(r.end.clean());
  ASSERT_EQ(r.lines.size(), 1u);
  EXPECT_LT(steady_s() - start, 20);
}

// Without it a missing program would look like a crash of the engine.
TEST(Process, AProgramThatIsNotThereIsNamed) {
  try {
    run_process({.command = {"/nowhere/suite_x"},
                 .on_line = [](const std::string&) {},
                 .allowed_s = [] { return 1.0; }});
    FAIL();
  } catch (const IoError& e) {
    EXPECT_STREQ(e.what(), "cannot start /nowhere/suite_x: No such file or directory");
  }
}

// Without it a full disk noticed while a line is recorded would leave the worker running.
TEST(Process, WhatOnLineThrowsKillsTheProcess) {
  const double start = steady_s();
  EXPECT_THROW(run_process({.command = {"/bin/sh", "-c", "echo 1; sleep 60"},
                            .on_line = [](const std::string&) { throw IoError("disk full"); },
                            .allowed_s = [] { return 60.0; }}),
               IoError);
  EXPECT_LT(steady_s() - start, 20);
}

// Without it a rank would outlive its worker, print into the protocol, or lack what it is told.
TEST(Companion, LivesAndDiesWithItsObject) {
  int pid = 0;
  {
    Companion sleeps({"/bin/sleep", "60"}, {});
    pid = sleeps.pid();
    EXPECT_FALSE(sleeps.end());
    EXPECT_EQ(::getpgid(pid), ::getpgrp()) << "what kills the worker's group kills its ranks";
  }
  EXPECT_EQ(::kill(pid, 0), -1);
  Companion told({"/bin/sh", "-c", "test \"$TANDEM_TOLD\" = yes && exit 7"}, {{"TANDEM_TOLD", "yes"}});
  std::optional<ProcessEnd> end;
  while (!(end = told.end())) ::usleep(1000);
  EXPECT_EQ(end->describe(), "exited with code 7");
  EXPECT_THROW(Companion({"/nowhere/suite_x"}, {}), IoError);
}

}  // namespace
}  // namespace tandem
