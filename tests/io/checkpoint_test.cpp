// SPDX-License-Identifier: MIT
#include "io/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/error.h"
#include "support/forked.h"
#include "support/temp_folder.h"
#include "support/text_files.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;

/// A checkpoint's files with `numbers` floats that depend on `value`.
struct Content {
  std::vector<float> weights;
  std::vector<CheckpointFile> files;
  explicit Content(int64_t value, size_t numbers = 4) : weights(numbers) {
    for (size_t i = 0; i < numbers; ++i)
      weights[i] = static_cast<float>(value) + static_cast<float>(i);
    files.push_back(
        {"model.safetensors",
         {{"w", "F32", {static_cast<int64_t>(numbers)}, std::as_bytes(std::span(weights))}},
         ""});
    files.push_back({"state.json", {}, "{\"step\": " + std::to_string(value) + "}\n"});
  }
};

fs::path save(const fs::path& folder, int64_t step, size_t numbers = 4, bool verify = true) {
  return write_checkpoint(folder, step, Content(step, numbers).files, verify);
}

std::string message_of(const std::function<void()>& f, Exit code) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.code, code) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator(folder))
    out.push_back(entry.path().filename().string());
  std::sort(out.begin(), out.end());
  return out;
}

TEST(Checkpoint, HoldsWhatWasWritten) {
  const TempFolder folder;
  const fs::path path = save(folder / "checkpoints", 5000);
  EXPECT_EQ(path, folder / "checkpoints" / "step-000005000");
  EXPECT_EQ(names_in(path),
            (std::vector<std::string>{"MANIFEST.json", "model.safetensors", "state.json"}));
  EXPECT_EQ(slurp(path / "state.json"), "{\"step\": 5000}\n");
  const SafetensorsFile model(path / "model.safetensors");
  EXPECT_EQ(model.metadata().at("format"), "pt");
  ASSERT_NE(model.find("w"), nullptr);
  EXPECT_EQ(model.find("w")->bytes.size(), 16u);
  EXPECT_EQ(fs::read_symlink(folder / "checkpoints" / "latest"), "step-000005000");
  EXPECT_EQ(names_in(folder / "checkpoints"),
            (std::vector<std::string>{"latest", "step-000005000"}));

  const auto entries = verify_checkpoint(path);
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[1].name, "state.json");
  EXPECT_EQ(entries[1].size, 15u);
}

std::string hex_of(const std::string& bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  char text[33];
  std::snprintf(text,
                sizeof(text),
                "%016llx%016llx",
                static_cast<unsigned long long>(hash.high64),
                static_cast<unsigned long long>(hash.low64));
  return text;
}

TEST(Checkpoint, ManifestHasSizesAndHashes) {
  const TempFolder folder;
  const fs::path path = save(folder.path(), 7);
  const std::string text = slurp(path / "MANIFEST.json");
  const auto manifest = nlohmann::ordered_json::parse(text);
  EXPECT_EQ(manifest.at("step"), 7);
  for (const auto& entry : manifest.at("files")) {
    const std::string bytes = slurp(path / entry.at("name").get<std::string>());
    EXPECT_EQ(entry.at("size"), bytes.size());
    EXPECT_EQ(entry.at("xxh3_128"), hex_of(bytes));
  }
  auto without = manifest;
  without.erase("xxh3_128");
  EXPECT_EQ(manifest.at("xxh3_128"), hex_of(without.dump(1) + "\n"));
  EXPECT_EQ(checkpoint_hash(path), manifest.at("xxh3_128"));
}

TEST(Checkpoint, NamesInAManifestStayInItsFolder) {
  const TempFolder folder;
  spill(folder / "secret", "secret");
  const fs::path path = save(folder.path(), 7);
  const auto good = nlohmann::ordered_json::parse(slurp(path / "MANIFEST.json"));
  for (const std::string& name : {std::string(),
                                  std::string("."),
                                  std::string(".."),
                                  std::string("../secret"),
                                  std::string("/etc/passwd"),
                                  std::string("a\0b", 3)}) {
    auto manifest = good;
    manifest["files"][0] = {{"name", name}, {"size", 6}, {"xxh3_128", hex_of("secret")}};
    manifest.erase("xxh3_128");
    manifest["xxh3_128"] = hex_of(manifest.dump(1) + "\n");
    spill(path / "MANIFEST.json", manifest.dump(1) + "\n");
    const std::string said = message_of([&] { verify_checkpoint(path); }, Exit::checkpoint);
    EXPECT_TRUE(contains(said, "names a file outside the checkpoint")) << name << said;
  }
}

TEST(Checkpoint, WhatIsNoFileInItIsDamage) {
  const TempFolder folder;
  const fs::path path = save(folder.path(), 7);
  fs::remove(path / "state.json");
  ASSERT_EQ(::mkfifo((path / "state.json").c_str(), 0600), 0);
  EXPECT_TRUE(contains(message_of([&] { verify_checkpoint(path); }, Exit::checkpoint),
                       "is not a regular file"));
}

TEST(Checkpoint, AFolderThatIsAFileIsNamed) {
  const TempFolder folder;
  spill(folder / "checkpoints", "");
  EXPECT_TRUE(contains(message_of([&] { save(folder / "checkpoints", 7); }, Exit::write),
                       (folder / "checkpoints").string()));
}

TEST(Checkpoint, HashNamesTheContent) {
  const TempFolder a, b;
  EXPECT_EQ(checkpoint_hash(save(a.path(), 7)), checkpoint_hash(save(b.path(), 7)));
  EXPECT_NE(checkpoint_hash(save(a.path(), 7)), checkpoint_hash(save(a.path(), 8)));
  EXPECT_NE(checkpoint_hash(write_checkpoint(a.path(), 9, Content(1).files, true)),
            checkpoint_hash(write_checkpoint(b.path(), 9, Content(2).files, true)));
}

TEST(Checkpoint, FindsEveryFlippedBit) {
  const TempFolder folder;
  const fs::path path = save(folder.path(), 1);
  for (const std::string& name : names_in(path)) {
    const std::string whole = slurp(path / name);
    for (size_t bit = 0; bit < 8 * whole.size(); ++bit) {
      std::string bytes = whole;
      bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
      spill(path / name, bytes);
      try {
        verify_checkpoint(path);
        FAIL() << name << ": bit " << bit << " was not noticed";
      } catch (const Error& e) {
        ASSERT_EQ(e.code, Exit::checkpoint);
        ASSERT_TRUE(contains(e.what(), (path / name).string())) << e.what();
      }
    }
    spill(path / name, whole);
  }
  EXPECT_NO_THROW(verify_checkpoint(path));
}

TEST(Checkpoint, FindsEveryTruncationAndExtraByteAndMissingFile) {
  const TempFolder folder;
  const fs::path path = save(folder.path(), 1);
  for (const std::string& name : names_in(path)) {
    const std::string whole = slurp(path / name);
    for (size_t length = 0; length < whole.size(); ++length) {
      spill(path / name, whole.substr(0, length));
      const std::string said = message_of([&] { verify_checkpoint(path); }, Exit::checkpoint);
      ASSERT_TRUE(contains(said, (path / name).string())) << said;
    }
    spill(path / name, whole + "\n");
    message_of([&] { verify_checkpoint(path); }, Exit::checkpoint);
    fs::remove(path / name);
    EXPECT_TRUE(contains(message_of([&] { verify_checkpoint(path); }, Exit::checkpoint), name));
    spill(path / name, whole);
  }
  EXPECT_NO_THROW(verify_checkpoint(path));
}

TEST(Checkpoint, FindsTenThousandFlipsInLargeTensors) {
  const TempFolder folder(memory_folder());
  const fs::path path = save(folder.path(), 1, 65536);
  const fs::path file = path / "model.safetensors";
  std::string bytes = slurp(file);
  std::mt19937_64 random(1);
  for (int i = 0; i < 10000; ++i) {
    const size_t at = random() % bytes.size();
    const char was = bytes[at];
    // Of one bit, or of several of a byte.
    bytes[at] = static_cast<char>(was ^ (i % 2 == 0 ? 1 << random() % 8 : 1 + random() % 255));
    spill(file, bytes);
    bytes[at] = was;
    EXPECT_THROW(verify_checkpoint(path), Error) << "byte " << at;
  }
  spill(file, bytes);
  EXPECT_NO_THROW(verify_checkpoint(path));
}

/// Cuts `file` to each of the lengths, which descend, and expects that it is noticed.
void expect_truncations_found(const fs::path& checkpoint,
                              const std::string& name,
                              const std::vector<size_t>& lengths) {
  for (const size_t length : lengths) {
    fs::resize_file(checkpoint / name, length);
    try {
      verify_checkpoint(checkpoint);
      FAIL() << name << " of " << length << " bytes was not noticed";
    } catch (const Error& e) {
      ASSERT_TRUE(contains(e.what(), (checkpoint / name).string())) << e.what();
    }
  }
}

TEST(Checkpoint, FindsEveryTruncationOf64KiB) {
  const TempFolder folder(memory_folder());
  const fs::path path = save(folder.path(), 1, 16000);
  size_t lengths = 0;
  for (const std::string& name : names_in(path)) {
    const std::string whole = slurp(path / name);
    std::vector<size_t> all;
    for (size_t length = whole.size(); length-- > 0;) all.push_back(length);
    expect_truncations_found(path, name, all);
    spill(path / name, whole);
    lengths += all.size();
  }
  EXPECT_GE(lengths, size_t{64'000});
  EXPECT_LE(lengths, size_t{65'536});
  EXPECT_NO_THROW(verify_checkpoint(path));
}

TEST(Checkpoint, FindsAThousandTruncationsOfALargeOne) {
  const TempFolder folder(memory_folder());
  const fs::path path = save(folder.path(), 1, 4 << 20);
  std::vector<size_t> lengths;
  std::mt19937_64 random(2);
  const size_t size = fs::file_size(path / "model.safetensors");
  for (int i = 0; i < 1000; ++i) lengths.push_back(random() % size);
  std::sort(lengths.rbegin(), lengths.rend());
  expect_truncations_found(path, "model.safetensors", lengths);
}

TEST(Checkpoint, AManifestOfOddValuesIsNone) {
  const TempFolder folder;
  const fs::path path = save(folder.path(), 1);
  const std::string good = slurp(path / "MANIFEST.json");
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  for (const std::string step : {"1e300", "1.5", "99999999999999999999", "\"1\"", "null"}) {
    std::string text = good;
    text.replace(text.find("\"step\": 1"), 9, "\"step\": " + step);
    spill(path / "MANIFEST.json", text);
    EXPECT_TRUE(contains(message_of([&] { verify_checkpoint(path); }, Exit::checkpoint),
                         "is not a manifest"))
        << step;
  }
  for (const std::string& text : {deep, "{\"format\": " + deep + "}", std::string("7")}) {
    spill(path / "MANIFEST.json", text);
    EXPECT_TRUE(contains(message_of([&] { verify_checkpoint(path); }, Exit::checkpoint),
                         "is not a manifest"));
  }
}

TEST(Checkpoint, SaysWhenItIsOfANewerVersion) {
  const TempFolder folder;
  const fs::path path = save(folder.path(), 1);
  std::string text = slurp(path / "MANIFEST.json");
  text.replace(text.find("\"format\": 1"), 11, "\"format\": 2");
  spill(path / "MANIFEST.json", text);
  EXPECT_TRUE(
      contains(message_of([&] { verify_checkpoint(path); }, Exit::checkpoint), "newer version"));
}

TEST(Checkpoint, ListsByStepAndOnlyFinishedOnes) {
  const TempFolder folder;
  EXPECT_TRUE(list_checkpoints(folder / "absent").empty());
  save(folder.path(), 20);
  save(folder.path(), 1'000'000'000);
  save(folder.path(), 3);
  fs::create_directory(folder / ".tmp-step-000000030-1");
  fs::create_directory(folder / "step-30");
  fs::create_directory(folder / "step-0000000030");
  fs::create_directory(folder / "step-00000003x");
  fs::create_directory(folder / "step--00000030");
  fs::create_directory(folder / "step-99999999999999999999");
  spill(folder / "step-000000040", "a file");
  const auto all = list_checkpoints(folder.path());
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].filename(), "step-000000003");
  EXPECT_EQ(all[1].filename(), "step-000000020");
  EXPECT_EQ(all[2].filename(), "step-1000000000");
}

TEST(Checkpoint, IsFoundFromTheRunItsFolderItselfAndLatest) {
  const TempFolder run;
  save(run / "checkpoints", 10);
  const fs::path newest = save(run / "checkpoints", 20);
  EXPECT_EQ(find_checkpoint(run.path()), newest);
  EXPECT_EQ(find_checkpoint(run / "checkpoints"), newest);
  EXPECT_EQ(find_checkpoint(newest), newest);
  EXPECT_EQ(fs::canonical(find_checkpoint(run / "checkpoints" / "latest")), fs::canonical(newest));
  const fs::path old = run / "checkpoints" / "step-000000010";
  EXPECT_EQ(find_checkpoint(old), old);
  // A copy under another name is one too.
  fs::copy(newest, run / "best", fs::copy_options::recursive);
  EXPECT_EQ(find_checkpoint(run / "best"), run / "best");
}

TEST(Checkpoint, UnderTheNameOfAnotherStepIsNotTaken) {
  const TempFolder folder;
  const fs::path good = save(folder.path(), 10), renamed = folder / "step-000000030";
  fs::rename(save(folder.path(), 20), renamed);
  const std::string why = message_of([&] { verify_checkpoint(renamed); }, Exit::checkpoint);
  EXPECT_TRUE(contains(why, "holds step 20: rename it to step-000000020")) << why;
  testing::internal::CaptureStderr();
  EXPECT_EQ(newest_checkpoint(folder.path()), good);
  EXPECT_TRUE(contains(testing::internal::GetCapturedStderr(), "step-000000020"));
}

TEST(Checkpoint, DamagedOnesArePassedOverWithAWarning) {
  const TempFolder run;
  const fs::path folder = run / "checkpoints";
  save(folder, 10);
  save(folder, 20);
  save(folder, 30);
  spill(folder / "step-000000030" / "state.json", "garbage");
  fs::remove(folder / "step-000000020" / "MANIFEST.json");
  testing::internal::CaptureStderr();
  const fs::path found = find_checkpoint(run.path());
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(found, folder / "step-000000010");
  EXPECT_TRUE(contains(said, "warning: ")) << said;
  EXPECT_TRUE(contains(said, (folder / "step-000000030" / "state.json").string())) << said;
  EXPECT_TRUE(contains(said, (folder / "step-000000020" / "MANIFEST.json").string())) << said;

  // One that was asked for by name is not silently exchanged for another.
  const std::string refusal =
      message_of([&] { find_checkpoint(folder / "step-000000030"); }, Exit::checkpoint);
  EXPECT_TRUE(contains(refusal, "state.json")) << refusal;

  spill(folder / "step-000000010" / "state.json", "garbage");
  testing::internal::CaptureStderr();
  const std::string all = message_of([&] { find_checkpoint(run.path()); }, Exit::checkpoint);
  message_of([&] { newest_checkpoint(folder); }, Exit::checkpoint);
  testing::internal::GetCapturedStderr();
  EXPECT_TRUE(contains(all, "every checkpoint")) << all;
}

TEST(Checkpoint, SaysWhatIsThereInstead) {
  const TempFolder folder;
  EXPECT_EQ(newest_checkpoint(folder.path()), std::nullopt);
  EXPECT_EQ(newest_checkpoint(folder / "absent"), std::nullopt);
  EXPECT_TRUE(contains(message_of([&] { find_checkpoint(folder.path()); }, Exit::checkpoint),
                       "no checkpoint in"));
  EXPECT_TRUE(contains(message_of([&] { find_checkpoint(folder / "no"); }, Exit::checkpoint),
                       "does not exist"));
  spill(folder / "last.ckpt", "PK\x03\x04");
  EXPECT_TRUE(contains(message_of([&] { find_checkpoint(folder / "last.ckpt"); }, Exit::checkpoint),
                       "torch.load"));
  const fs::path path = save(folder.path(), 1);
  EXPECT_TRUE(
      contains(message_of([&] { find_checkpoint(path / "model.safetensors"); }, Exit::checkpoint),
               "is a file"));
  spill(folder / "config.yaml", "data: {path: /p}\n");
  EXPECT_TRUE(
      contains(message_of([&] { find_checkpoint(folder / "config.yaml"); }, Exit::checkpoint),
               "config.yaml is a file; give the checkpoint's folder or a run folder"));
}

TEST(Checkpoint, PruningKeepsTheNewestAndTheMultiples) {
  const TempFolder folder;
  for (int64_t step = 10; step <= 80; step += 10) save(folder.path(), step);
  fs::create_directories(folder / ".tmp-step-000000090-1" / "sub");
  fs::create_directories(folder / ".del-step-000000005-1");
  prune_checkpoints(folder.path(), 2, 30);
  EXPECT_EQ(names_in(folder.path()),
            (std::vector<std::string>{
                "latest", "step-000000030", "step-000000060", "step-000000070", "step-000000080"}));
  prune_checkpoints(folder.path(), 0, 0);
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"latest", "step-000000080"}));
  prune_checkpoints(folder / "absent", 1, 0);
}

ino_t inode(const fs::path& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? info.st_ino : 0;
}

TEST(Checkpoint, WhatIsSetAsideStays) {
  const TempFolder folder;
  const auto save_all = [&](const std::vector<int64_t>& steps) {
    for (const int64_t step : steps)
      write_checkpoint(folder.path(), step, {{"state.json", {}, "{}\n"}}, true);
  };
  save_all({1, 2, 3});
  testing::internal::CaptureStderr();
  set_aside_newer(folder.path(), 1);
  save_all({3, 4});
  set_aside_newer(folder.path(), 2);
  set_aside_newer(folder.path(), 2);  // nothing is newer
  const std::string said = testing::internal::GetCapturedStderr();
  std::vector<std::string> wanted{"aside-step-000000002",
                                  "aside-step-000000003",
                                  "aside-step-000000003-2",
                                  "aside-step-000000004",
                                  "latest",
                                  "step-000000001"};
  EXPECT_EQ(names_in(folder.path()), wanted);
  EXPECT_TRUE(contains(said, "renamed to aside-step-000000003-2, which may be removed")) << said;
}

TEST(Checkpoint, SameStepAgain) {
  const TempFolder folder;
  const fs::path path = save(folder.path(), 10);
  const ino_t first = inode(path / "state.json");

  save(folder.path(), 10);
  EXPECT_EQ(inode(path / "state.json"), first) << "the same content was written again";

  write_checkpoint(folder.path(), 10, Content(11).files, true);
  EXPECT_EQ(slurp(path / "state.json"), "{\"step\": 11}\n");
  EXPECT_NO_THROW(verify_checkpoint(path));

  spill(path / "state.json", "garbage");
  write_checkpoint(folder.path(), 10, Content(11).files, true);
  EXPECT_NO_THROW(verify_checkpoint(path));

  fs::remove_all(path);
  spill(path, "not even a folder");
  save(folder.path(), 10);
  EXPECT_NO_THROW(verify_checkpoint(path));
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"latest", "step-000000010"}));
}

// In place of libc's for what this executable loads: what other file systems answer.
int exchange_error = 0;
int exchanges = 0;

}  // namespace
}  // namespace diffuse

extern "C" int renameat2(int from_fd, const char* from, int to_fd, const char* to, unsigned flags) {
  ++diffuse::exchanges;
  if (diffuse::exchange_error == 0)
    return static_cast<int>(::syscall(SYS_renameat2, from_fd, from, to_fd, to, flags));
  errno = diffuse::exchange_error;
  return -1;
}

namespace diffuse {
namespace {

TEST(Checkpoint, WhereNothingCanBeExchanged) {
  for (const int error : {EINVAL, ENOSYS, EIO}) {  // NFS, an old kernel, a bad disk
    const TempFolder folder;
    const fs::path path = save(folder.path(), 10);
    exchange_error = error;
    exchanges = 0;
    testing::internal::CaptureStderr();
    // A good one is never absent, not for a moment: it stays.
    const auto other = [&] { write_checkpoint(folder.path(), 10, Content(11).files, true); };
    if (error == EIO)
      EXPECT_TRUE(contains(message_of(other, Exit::write), "cannot rename to " + path.string()));
    else
      other();
    const std::string said = testing::internal::GetCapturedStderr();
    EXPECT_EQ(contains(said, "differs and cannot be exchanged here: it is kept"), error != EIO)
        << said;
    EXPECT_EQ(slurp(path / "state.json"), "{\"step\": 10}\n");
    EXPECT_NO_THROW(verify_checkpoint(path));
    // A damaged one is of no use any more.
    spill(path / "state.json", "garbage");
    if (error == EIO) {
      EXPECT_TRUE(contains(message_of(other, Exit::write), "cannot rename to"));
      EXPECT_EQ(slurp(path / "state.json"), "garbage");
    } else {
      other();
      EXPECT_NO_THROW(verify_checkpoint(path));
      EXPECT_EQ(slurp(path / "state.json"), "{\"step\": 11}\n");
    }
    exchange_error = 0;
    EXPECT_EQ(exchanges, 2);
    EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"latest", "step-000000010"}));
  }
}

TEST(Checkpoint, WhatCannotBeWrittenLeavesTheOldOne) {
  const TempFolder folder;
  save(folder.path(), 10, 1000);
  spill(folder / "file", "");
  EXPECT_TRUE(contains(message_of([&] { save(folder / "file" / "x", 1); }, Exit::write),
                       "was not written"));
  // Where nobody may make a folder, root neither.
  EXPECT_TRUE(contains(message_of([&] { save("/proc/self", 1); }, Exit::write),
                       "cannot create /proc/self/.tmp-step-000000001"));

  // RLIMIT_FSIZE is the full disk of those without root: write() fails part of the way.
  const pid_t child = fork_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    int failures = 0;
    for (const rlim_t limit : {0, 1, 100, 1000, 4000, 4100}) {
      const rlimit set{limit, RLIM_INFINITY};
      if (::setrlimit(RLIMIT_FSIZE, &set) != 0) return 1;
      for (const bool same_step : {false, true}) try {
          write_checkpoint(folder.path(), same_step ? 10 : 20, Content(20, 1000).files, true);
        } catch (const Error& e) {
          failures += e.code == Exit::write && contains(e.what(), "File too large");
        }
      verify_checkpoint(folder / "step-000000010");
    }
    return failures == 12 ? 0 : 2;
  });
  EXPECT_EQ(wait_for(child), 0);
  EXPECT_EQ(names_in(folder.path()),
            (std::vector<std::string>{"file", "latest", "step-000000010"}));
  EXPECT_EQ(find_checkpoint(folder.path()), folder / "step-000000010");
  save(folder.path(), 20, 1000);
  EXPECT_EQ(find_checkpoint(folder.path()), folder / "step-000000020");
}

// A writer that is killed at any moment: every checkpoint that it reported is still there and good
// (or was pruned after a newer one), nothing half-written has a final name, and the next writer
// clears up.
void kill_writers(bool same_step) {
  const TempFolder folder;
  std::mt19937 random(same_step ? 1 : 2);
  int64_t step = 0;
  save(folder.path(), step, 2000);
  for (int round = 0; round < 30; ++round) {
    int report[2];
    ASSERT_EQ(::pipe(report), 0);
    const pid_t child = fork_child([&]() -> int {
      for (int64_t next = step + 1;; ++next) {
        write_checkpoint(
            folder.path(), same_step ? 0 : next, Content(next, 2000).files, next % 2 == 0);
        if (::write(report[1], &next, sizeof(next)) != sizeof(next)) return 1;
        prune_checkpoints(folder.path(), 2, 0);
      }
    });
    ::close(report[1]);
    // Every other one after its first checkpoint, so that some get through on a slow disk.
    if (round % 2 == 1) {
      ASSERT_EQ(::read(report[0], &step, sizeof(step)), static_cast<ssize_t>(sizeof(step)));
    }
    ::usleep(random() % 20000);
    ::kill(child, SIGKILL);
    EXPECT_EQ(wait_for(child), -SIGKILL);
    for (int64_t reported = 0; ::read(report[0], &reported, sizeof(reported)) == sizeof(reported);)
      step = reported;
    ::close(report[0]);

    const fs::path found = find_checkpoint(folder.path());
    const auto state = nlohmann::json::parse(slurp(found / "state.json"));
    EXPECT_GE(state.at("step").get<int64_t>(), step);
    EXPECT_LE(state.at("step").get<int64_t>(), step + 1);
    for (const fs::path& path : list_checkpoints(folder.path()))
      EXPECT_NO_THROW(verify_checkpoint(path));
    step = state.at("step").get<int64_t>();
  }
  EXPECT_GE(step, 15);
  remove_leftovers(folder.path());
  for (const std::string& name : names_in(folder.path()))
    EXPECT_TRUE(name == "latest" || name.rfind("step-", 0) == 0) << name;
}

TEST(Checkpoint, SurvivesKilledWriters) { kill_writers(false); }
TEST(Checkpoint, SurvivesKilledWritersOfOneStep) { kill_writers(true); }

}  // namespace
}  // namespace diffuse
