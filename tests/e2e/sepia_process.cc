#include "tests/e2e/sepia_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"

namespace sepia::testing {
namespace {

// Holds `content`, to be read from the start.
int UnlinkedFile(const std::string& content) {
  std::string name = (std::filesystem::temp_directory_path() / "sepia-output-XXXXXX").string();
  const int fd = mkstemp(name.data());
  CHECK(fd >= 0);
  unlink(name.c_str());
  CHECK(write(fd, content.data(), content.size()) == static_cast<ssize_t>(content.size()));
  lseek(fd, 0, SEEK_SET);
  return fd;
}

// After fork: only system calls.
[[noreturn]] void Exec(int input_fd, int output_fd, const ProcessOptions& options, char** argv) {
  dup2(input_fd, STDIN_FILENO);
  dup2(output_fd, STDOUT_FILENO);
  dup2(output_fd, STDERR_FILENO);
  // No core files, and none piped to a collector either (1 means that to the kernel): a rank that
  // crashes is gone at once.
  const rlimit no_core = {1, 1};
  setrlimit(RLIMIT_CORE, &no_core);
  if (options.max_file_bytes > 0) {
    const auto bytes = static_cast<rlim_t>(options.max_file_bytes);
    const rlimit limit = {bytes, bytes};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  execv(argv[0], argv);
  _exit(127);
}

// Open MPI leaks by itself.
std::vector<std::string> WordsAgainstLeakReports() {
#ifdef __SANITIZE_ADDRESS__
  const char* options = getenv("ASAN_OPTIONS");
  const std::string others = options == nullptr ? "" : std::string(options) + ":";
  return {"/usr/bin/env", "ASAN_OPTIONS=" + others + "detect_leaks=0"};
#else
  return {};
#endif
}

}  // namespace

SepiaProcess::SepiaProcess(const std::vector<std::string>& args, const ProcessOptions& options)
    : output_fd_(UnlinkedFile("")) {
  // Threads that spin while they wait take the cores from other tests.
  setenv("OMP_WAIT_POLICY", "passive", 0);
  std::vector<std::string> words;
  if (!options.fault.empty()) words = {"/usr/bin/env", "SEPIA_FAULT=" + options.fault};
  const std::vector<std::string> launcher =
      options.launcher.empty() && options.ranks > 0 ? LaunchWords(options.ranks) : options.launcher;
  words.insert(words.end(), launcher.begin(), launcher.end());
  if (options.ranks > 0) {
    for (const std::string& word : WordsAgainstLeakReports()) words.push_back(word);
  }
  words.emplace_back(SEPIA_BINARY);
  words.insert(words.end(), args.begin(), args.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const int input_fd = UnlinkedFile(options.input);
  pid_ = fork();
  CHECK(pid_ >= 0);
  if (pid_ == 0) Exec(input_fd, output_fd_, options, argv.data());
  close(input_fd);
}

SepiaProcess::~SepiaProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(output_fd_);
}

void SepiaProcess::Signal(int signal) const { kill(pid_, signal); }

ProcessResult SepiaProcess::Wait() {
  ProcessResult result;
  int status = 0;
  CHECK(waitpid(pid_, &status, 0) == pid_);
  pid_ = -1;
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.output = Output();
  return result;
}

std::string SepiaProcess::Output() const {
  std::string output;
  char buffer[4096];
  for (ssize_t n;
       (n = pread(output_fd_, buffer, sizeof(buffer), static_cast<off_t>(output.size()))) > 0;) {
    output.append(buffer, static_cast<size_t>(n));
  }
  return output;
}

std::vector<std::string> LaunchWords(int ranks) {
  // Containers run tests as root, which mpirun takes for a mistake.
  setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0);
  setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
  return {
      SEPIA_MPIRUN, "--oversubscribe",    "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1",
      "-n",         std::to_string(ranks)};
}

ProcessResult RunSepia(const std::vector<std::string>& args, const ProcessOptions& options) {
  return SepiaProcess(args, options).Wait();
}

ProcessResult RunSepiaWhenFree(const std::vector<std::string>& args,
                               const ProcessOptions& options) {
  const Timer waiting;
  while (true) {
    ProcessResult result = RunSepia(args, options);
    const bool locked = result.output.find("another run is using") != std::string::npos;
    if (!locked || waiting.Seconds() > 60) return result;
    SleepMilliseconds(200);
  }
}

size_t Count(const std::string& text, const std::string& what) {
  size_t count = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

bool WaitUntil(const std::function<bool()>& condition, double seconds) {
  const Timer timer;
  while (!condition()) {
    if (timer.Seconds() > seconds) return false;
    SleepMilliseconds(1);
  }
  return true;
}

bool WaitForLines(const std::string& path, int lines) {
  return WaitUntil([&] {
    // Whatever is there: a run that starts again cuts the file while it is read.
    std::ifstream file(path);
    return std::count(std::istreambuf_iterator<char>(file), {}, '\n') >= lines;
  });
}

bool WaitForFile(const std::string& path) {
  return WaitUntil([&] { return FileExists(path); });
}

void SleepMilliseconds(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

}  // namespace sepia::testing
