#include "harness/parallel/rank_environment.h"

#include <gtest/gtest.h>

#include <map>

namespace tandem {
namespace {

using Variables = std::map<std::string, std::string>;

std::optional<LaunchedRank> launched(const Variables& variables) {
  return launched_rank([&](const char* name) {
    const auto it = variables.find(name);
    return it == variables.end() ? nullptr : it->second.c_str();
  });
}

std::string refusal(const Variables& variables) {
  try {
    launched(variables);
  } catch (const UsageError& e) {
    return e.what();
  }
  return "";
}

Variables with(Variables all, const Variables& more) {
  for (const auto& [name, value] : more) all[name] = value;
  return all;
}

const Variables kMpi = {{"OMPI_COMM_WORLD_RANK", "2"},
                        {"OMPI_COMM_WORLD_SIZE", "4"},
                        {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                        {"TANDEM_RENDEZVOUS", "node7:5555"}};
const Variables kSrun = {{"SLURM_PROCID", "3"},
                         {"SLURM_NTASKS", "4"},
                         {"SLURM_LOCALID", "0"},
                         {"TANDEM_RENDEZVOUS", "node7:5555"}};

// Breaks when a rank takes another's place, or another's device.
TEST(LaunchedRank, IsReadFromEitherLauncher) {
  const auto mpi = launched(kMpi);
  ASSERT_TRUE(mpi);
  EXPECT_EQ(mpi->rank, 2);
  EXPECT_EQ(mpi->size, 4);
  EXPECT_EQ(mpi->local_rank, 1);
  EXPECT_EQ(mpi->rendezvous, "node7:5555");
  const auto srun = launched(kSrun);
  ASSERT_TRUE(srun);
  EXPECT_EQ(srun->rank, 3);
  EXPECT_EQ(srun->local_rank, 0);
  EXPECT_EQ(srun->by, "SLURM_NTASKS");
}

// Breaks when a plain run, a batch script of Slurm, or a launcher of one process waits for ranks that nobody started.
TEST(LaunchedRank, OneProcessIsNoRank) {
  EXPECT_FALSE(launched({}));
  EXPECT_FALSE(launched({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_LOCALID", "0"}}));
  EXPECT_FALSE(launched(
      {{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "1"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "0"}}));
}

// Breaks when variables that are missing or contradict end in a hang or in a wrong place instead of a message.
TEST(LaunchedRank, WhatIsMissingOrContradictsIsNamed) {
  Variables missing = kMpi;
  missing.erase("TANDEM_RENDEZVOUS");
  EXPECT_EQ(refusal(missing),
            "TANDEM_RENDEZVOUS: is missing beside OMPI_COMM_WORLD_SIZE 4; HOST:PORT of rank 0's host, the "
            "same for every "
            "rank");
  missing = with(kSrun, {{"SLURM_STEP_ID", "0"}});
  missing.erase("TANDEM_RENDEZVOUS");
  EXPECT_NE(refusal(missing).find("TANDEM_RENDEZVOUS: is missing beside SLURM_NTASKS 4"), std::string::npos);
  for (const auto& [name, value] : kMpi) {
    if (name == "TANDEM_RENDEZVOUS") continue;
    missing = kMpi;
    missing.erase(name);
    EXPECT_EQ(refusal(missing), name + ": is missing beside the launcher's other variables");
    for (const char* bad : {"", "-1", "x", "2x", "99999999999"}) {
      EXPECT_EQ(refusal(with(kMpi, {{name, bad}})).find(name + ": '" + bad + "' is not allowed"), 0u) << bad;
    }
  }
  EXPECT_EQ(refusal({{"TANDEM_RENDEZVOUS", "node7:5555"}}),
            "TANDEM_RENDEZVOUS: is set, but neither OMPI_COMM_WORLD_RANK nor SLURM_PROCID is; mpirun or srun "
            "sets them");
  EXPECT_EQ(refusal(with(kMpi, {{"OMPI_COMM_WORLD_RANK", "4"}})),
            "OMPI_COMM_WORLD_RANK: 4 contradicts OMPI_COMM_WORLD_SIZE 4");
  EXPECT_EQ(refusal(with(kMpi, {{"OMPI_COMM_WORLD_LOCAL_RANK", "3"}})),
            "OMPI_COMM_WORLD_LOCAL_RANK: 3 contradicts OMPI_COMM_WORLD_RANK 2");
  EXPECT_EQ(refusal(with(kMpi, kSrun)),
            "OMPI_COMM_WORLD_RANK 2 of 4 contradicts SLURM_PROCID 3 of 4; unset those of the launcher that "
            "did not start "
            "this process");
}

}  // namespace
}  // namespace tandem
