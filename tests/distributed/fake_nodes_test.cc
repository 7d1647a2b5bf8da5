// Runs over fake nodes (fake_cluster): launched by ssh, talking over TCP. A node that crashes or
// whose link is cut ends the job in bounded time (P3), and nodes change no bits.
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/clock.h"
#include "base/file.h"
#include "data/file_lock.h"
#include "tests/distributed/failure_modes.h"
#include "tests/support/shared_fixtures.h"

namespace sepia::testing {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSteps = 24;
constexpr double kBounded = 90;  // far more than it takes; a hang is longer
const char kState[] = "/run/sepia-fake-cluster";

int Cluster(const std::string& words) {
  return std::system(
      fmt::format("{} {}", SourcePath("tests/distributed/fake_cluster"), words).c_str());
}

// A cluster for one test, and a run directory that all its nodes see.
class FakeNodesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const bool possible = geteuid() == 0 && Cluster("up 2 >/dev/null 2>&1") == 0;
    if (possible) return;
    if (SharedIsRequired()) FAIL() << "no fake nodes: scripts/install-deps, root and namespaces";
    GTEST_SKIP() << "fake nodes need root, namespaces, ip, sshd (scripts/install-deps)";
  }
  void TearDown() override { Cluster("down"); }

  // mpirun on node0, `slots` ranks a node. A lost node is noticed by the launcher within 4 seconds,
  // less than half of the watchdog's limit.
  std::vector<std::string> Launcher(int nodes, int slots) {
    // Not in /tmp, which every node has for itself.
    const std::string hosts = File("hosts");
    std::ofstream file(hosts);
    for (int n = 0; n < nodes; ++n) file << fmt::format("node{} slots={}\n", n, slots);
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
    std::vector<std::string> words = {SourcePath("tests/distributed/fake_cluster"),
                                      "exec",
                                      "node0",
                                      SEPIA_MPIRUN,
                                      "--hostfile",
                                      hosts,
                                      "--wdir",
                                      File(""),
                                      "--oversubscribe",
                                      "--bind-to",
                                      "none",
                                      "--map-by",
                                      "slot"};
    const auto set = [&](const std::string& name, const std::string& value) {
      words.insert(words.end(), {"--mca", name, value});
    };
    set("plm_rsh_agent", fmt::format("ssh -F {}/ssh_config", kState));
    set("oob_tcp_if_include", "eth0");
    set("btl_tcp_if_include", "eth0");
    set("btl", "self,vader,tcp");
    set("pml", "ob1");
    set("mpi_yield_when_idle", "1");
    set("oob_tcp_keepalive_time", "1");
    set("oob_tcp_keepalive_intvl", "1");
    set("oob_tcp_keepalive_probes", "3");
    words.insert(words.end(), {"-x", "SEPIA_FAULT", "-n", std::to_string(nodes * slots)});
    return words;
  }

  ProcessOptions On(int nodes, int slots, const std::string& fault = "none_of_these") {
    ProcessOptions options;
    options.launcher = Launcher(nodes, slots);
    options.fault = fault == "none_of_these" ? " " : fault;
    return options;
  }

  std::string File(const std::string& name) const { return run_.File(name); }

  // The run directory lies where all nodes see it.
  struct InSharedFolder {
    InSharedFolder() { setenv("TMPDIR", "/var/tmp", 1); }
  };
  // Nodes have one bridge, subnet and state directory a machine: held while a test has some, so
  // that the tests of two checkouts, and scripts/soak, take turns. None unless root, who alone has
  // nodes.
  const std::optional<data::FileLock> lock_ =
      data::FileLock::Acquire("/run/sepia-fake-cluster.lock");
  const InSharedFolder shared_;
  const TinyRun run_;
};

TEST_F(FakeNodesTest, TwoNodesOfTwoRanksGiveTheBitsOfOneNodeOfFour) {
  for (const Layout& layout : {Layout{4, 2, 1}, Layout{4, 1, 0}}) {
    SCOPED_TRACE(layout.name());
    const std::string one = "one" + layout.name(), two = "two" + layout.name();
    ASSERT_EQ(RunSepia(FaultyTrain(run_, one, layout), {.ranks = 4}).code, 0);
    const ProcessResult result = RunSepia(FaultyTrain(run_, two, layout), On(2, 2));
    ASSERT_EQ(result.code, 0) << result.output;
    ExpectSameRun(run_, two, one, kSteps);
  }
}

TEST_F(FakeNodesTest, TensorGroupsAcrossNodesAreRefused) {
  const ProcessResult result = RunSepia(FaultyTrain(run_, "a", {2, 2, 0}), On(2, 1));
  EXPECT_EQ(result.code, 2) << result.output;
  EXPECT_THAT(result.output, HasSubstr("(on node0) and 1 (on node1) into one tensor group"));
}

// Both faults strike in step 8 or soon after, while rank 2, on node1, holds the others up.
class LostNodeTest : public FakeNodesTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(LostNodeTest, EndsTheJobAndTheNextStartContinues) {
  const Layout layout{4, 2, 1};
  SepiaProcess process(FaultyTrain(run_, "a", layout, 12),
                       On(2, 2, "slow rank=2 ms=400 phase=backward"));
  ASSERT_TRUE(WaitForLines(run_.Metrics("a"), 7));
  const Timer timer;
  ASSERT_EQ(Cluster(GetParam()), 0);
  const ProcessResult result = process.Wait();
  const double seconds = timer.Seconds();
  EXPECT_LT(seconds, kBounded);
  const bool crash = std::string(GetParam()).starts_with("crash");
  // mpirun's own code, or that of its ssh when this notices first.
  EXPECT_TRUE(result.code == 205 || (crash && result.code == 255)) << result.code << "\n"
                                                                   << result.output;
  EXPECT_THAT(result.output, HasSubstr("node1"));
  std::printf("%s: %.1f s, exit code %d\n", GetParam(), seconds, result.code);
  // On the nodes that are left.
  ASSERT_EQ(RunSepiaWhenFree(FaultyTrain(run_, "a", layout), {.ranks = 4}).code, 0);
  ASSERT_EQ(RunSepia(FaultyTrain(run_, "calm", layout), {.ranks = 4}).code, 0);
  ExpectSameRun(run_, "a", "calm", kSteps);
  Promise({"P3", crash ? "a node crashes" : "the link of a node goes down",
           crash ? "205 or 255 from mpirun at once, which names the node; the next start, on other "
                   "nodes, "
                   "continues bit for bit"
                 : "205 from mpirun after its keepalive time (etc/openmpi.conf: 11 s), which names "
                   "the node; the next start, on other nodes, continues bit for bit"});
}

INSTANTIATE_TEST_SUITE_P(Faults, LostNodeTest, ::testing::Values("crash node1", "cut node1"),
                         [](const auto& test) {
                           const std::string words = test.param;
                           return words.substr(0, words.find(' '));
                         });

TEST_F(FakeNodesTest, AStoppedRankOfAnotherNodeIsNamedWithIt) {
  const Layout layout{4, 1, 0};
  const Timer timer;
  const ProcessResult result =
      RunSepia(FaultyTrain(run_, "a", layout, 6), On(2, 2, "stop rank=3 step=8 phase=backward"));
  EXPECT_LT(timer.Seconds(), kBounded);
  EXPECT_EQ(result.code, 71) << result.output;
  EXPECT_THAT(result.output, HasSubstr("hang: rank 3 (on node1) does not answer"));
  Promise({"P2", "a rank of another node is stopped", "71; rank and node are named by rank 0"});
}

// Four nodes of one rank each.
TEST_F(FakeNodesTest, FourNodesGiveTheSameBits) {
  ASSERT_EQ(Cluster("up 4 >/dev/null 2>&1"), 0);
  const Layout layout{4, 1, 1};
  ASSERT_EQ(RunSepia(FaultyTrain(run_, "one", layout), {.ranks = 4}).code, 0);
  const ProcessResult result = RunSepia(FaultyTrain(run_, "four", layout), On(4, 1));
  ASSERT_EQ(result.code, 0) << result.output;
  ExpectSameRun(run_, "four", "one", kSteps);
}

}  // namespace
}  // namespace sepia::testing
