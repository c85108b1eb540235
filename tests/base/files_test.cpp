// SPDX-License-Identifier: MIT
#include "base/files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "support/forked.h"
#include "support/temp_folder.h"
#include "support/text_files.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;

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

size_t entries_in(const fs::path& folder) {
  return static_cast<size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(Files, ReadWhatIsThere) {
  const TempFolder folder;
  const std::string bytes("a\0b\xff\n", 5);
  spill(folder / "f", bytes);
  EXPECT_EQ(read_file(folder / "f", Exit::config), bytes);
  EXPECT_EQ(read_bytes(folder / "f"), std::vector<uint8_t>(bytes.begin(), bytes.end()));
  EXPECT_EQ(read_file(folder / "f", Exit::config, 5), bytes);
  spill(folder / "empty", "");
  EXPECT_EQ(read_file(folder / "empty", Exit::config), "");
}

TEST(Files, FoldersAreMadeWithTheirParents) {
  const TempFolder folder;
  for (const char* name : {"a/b/c", "a/b/c", "a/d/", "e/../f/g"}) {
    create_folders(folder / name, Exit::write);
    EXPECT_TRUE(fs::is_directory(folder / name)) << name;
  }
  spill(folder / "file", "");
  EXPECT_TRUE(contains(
      message_of([&] { create_folders(folder / "file/x", Exit::run_folder); }, Exit::run_folder),
      "cannot create " + (folder / "file/x").string()));
}

TEST(Files, SayWhyTheyCannotBeRead) {
  const TempFolder folder;
  spill(folder / "f", "12345");
  const auto read = [&](const fs::path& path) {
    const std::string said = message_of([&] { read_file(path, Exit::config, 4); }, Exit::config);
    EXPECT_TRUE(contains(said, path.string())) << said;
    return said;
  };
  EXPECT_TRUE(contains(read(folder / "absent"), "No such file"));
  EXPECT_TRUE(contains(read(folder / "f"), "the limit is 4"));
  EXPECT_TRUE(contains(read(folder.path()), "not a regular file"));
  EXPECT_TRUE(contains(message_of([&] { read_bytes(folder / "absent"); }, Exit::data), "absent"));
}

TEST(Files, AreReplacedWhole) {
  const TempFolder folder;
  write_file_atomic(folder / "f", std::string_view("first"));
  EXPECT_EQ(slurp(folder / "f"), "first");
  const std::vector<uint8_t> bytes{0, 255};
  write_file_atomic(folder / "f", bytes);
  EXPECT_EQ(slurp(folder / "f"), std::string("\0\xff", 2));
  EXPECT_EQ(entries_in(folder.path()), 1u);
  message_of(
      [&] { write_file_atomic(folder / "no" / "f", std::string_view("x"), Exit::run_folder); },
      Exit::run_folder);
  fs::create_directory(folder / "d");
  message_of([&] { write_file_atomic(folder / "d", std::string_view("x")); }, Exit::write);
  EXPECT_EQ(entries_in(folder.path()), 2u);
}

TEST(Files, ModeObeysTheUmask) {
  const TempFolder folder;
  const mode_t before = ::umask(0027);
  write_file_atomic(folder / "f", std::string_view("x"));
  ::umask(before);
  struct stat info {};
  ASSERT_EQ(::stat((folder / "f").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640u);
}

TEST(Files, OfAGivenNameKeepTheirLinkAndMode) {
  const TempFolder folder;
  fs::create_directory(folder / "d");
  write_named_file(folder / "d" / "f", std::string_view("new"));
  EXPECT_EQ(slurp(folder / "d" / "f"), "new");
  ::chmod((folder / "d" / "f").c_str(), 0600);
  fs::create_symlink("d/f", folder / "link");
  write_named_file(folder / "link", std::string_view("by its link"));
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(slurp(folder / "d" / "f"), "by its link");
  EXPECT_EQ(fs::status(folder / "d" / "f").permissions(),
            fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_EQ(entries_in(folder / "d"), 1u);
  fs::create_symlink("gone", folder / "dangling");
  write_named_file(folder / "dangling", std::string_view("x"));
  EXPECT_TRUE(fs::is_symlink(folder / "dangling"));
  EXPECT_EQ(slurp(folder / "gone"), "x");
  message_of([&] { write_named_file(folder / "d", std::string_view("x")); }, Exit::write);
  fs::create_symlink("loop", folder / "loop");
  message_of([&] { write_named_file(folder / "loop", std::string_view("x")); }, Exit::write);
}

TEST(Files, WhatIsNoFileIsWrittenToAsItIs) {
  const TempFolder folder;
  const fs::path fifo = folder / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0666), 0);
  const FileDescriptor reader(::open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  write_named_file(fifo, std::string_view("through it"));
  char text[32] = {};
  EXPECT_EQ(::read(reader.fd, text, sizeof(text)), 10);
  EXPECT_STREQ(text, "through it");
  EXPECT_TRUE(fs::is_fifo(fifo));
  // A file that a shell has opened, under the name that it has there.
  const FileDescriptor file(::open((folder / "f").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  const std::string open_file = "/dev/fd/" + std::to_string(file.fd);
  fs::create_symlink(open_file, folder / "to-it");
  write_named_file(open_file, std::string_view("one"));
  EXPECT_EQ(::write(file.fd, ", two", 5), 5);
  write_named_file(folder / "to-it", std::string_view(", three"));
  EXPECT_EQ(slurp(folder / "f"), "one, two, three");
  const std::string why =
      message_of([&] { write_named_file("/dev/full", std::string_view("x")); }, Exit::write);
  EXPECT_TRUE(contains(why, "cannot write /dev/full: No space left")) << why;
  EXPECT_TRUE(fs::is_character_file("/dev/full"));
}

TEST(Files, APartedOneLeavesItsOtherNamesAsTheyAre) {
  const TempFolder folder;
  write_file_atomic(folder / "f", std::string_view("old"));
  const auto inode = [&](const char* name) {
    struct stat info {};
    ::stat((folder / name).c_str(), &info);
    return info.st_ino;
  };
  const ino_t before = inode("f");
  EXPECT_EQ(part_from_links(folder / "f"), "");
  EXPECT_EQ(inode("f"), before) << "it has no other name";
  fs::create_hard_link(folder / "f", folder / "backup");
  EXPECT_EQ(part_from_links(folder / "f"), "");
  EXPECT_NE(inode("f"), before);
  EXPECT_EQ(slurp(folder / "f"), "old");
  EXPECT_EQ(inode("backup"), before);
  EXPECT_EQ(part_from_links(folder / "absent"), "");
  EXPECT_FALSE(fs::exists(folder / "absent"));
}

TEST(Files, AFailedReplacementLeavesTheOldOne) {
  const TempFolder folder;
  write_file_atomic(folder / "f", std::string_view("old"));
  const pid_t child = fork_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1000, RLIM_INFINITY};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_file_atomic(folder / "f", std::string(5000, 'x'));
    } catch (const Error& e) {
      return e.code == Exit::write && contains(e.what(), "File too large") ? 0 : 2;
    }
    return 1;
  });
  EXPECT_EQ(wait_for(child), 0);
  EXPECT_EQ(slurp(folder / "f"), "old");
  EXPECT_EQ(entries_in(folder.path()), 1u);
}

TEST(Files, AReaderSeesOldOrNewAndAKillLeavesOneOfThem) {
  const TempFolder folder;
  write_file_atomic(folder / "f", std::string(20000, 'a'));
  const pid_t child = fork_child([&]() -> int {
    for (char c = 'b';; c = c == 'z' ? 'a' : static_cast<char>(c + 1))
      write_file_atomic(folder / "f", std::string(20000, c));
  });
  const auto whole = [&] {
    const std::string text = slurp(folder / "f");
    return text.size() == 20000 && text == std::string(20000, text[0]);
  };
  for (int i = 0; i < 300; ++i) ASSERT_TRUE(whole());
  ::kill(child, SIGKILL);
  EXPECT_EQ(wait_for(child), -SIGKILL);
  EXPECT_TRUE(whole());
}

TEST(Files, NewOnesNeverOverwrite) {
  const TempFolder folder;
  const std::string a = "ab", b = "cd";
  const std::span<const std::byte> parts[] = {
      std::as_bytes(std::span(a)), {}, std::as_bytes(std::span(b))};
  write_new_file(folder / "f", parts);
  EXPECT_EQ(slurp(folder / "f"), "abcd");
  message_of([&] { write_new_file(folder / "f", {}); }, Exit::write);
  EXPECT_EQ(slurp(folder / "f"), "abcd");
  message_of([&] { fsync_folder(folder / "absent"); }, Exit::write);
}

TEST(Files, FreeSpaceIsThatOfThePlaceToBe) {
  const TempFolder folder;
  const auto here = free_space(folder.path());
  ASSERT_TRUE(here.has_value());
  EXPECT_GT(*here, 0u);
  // Others write meanwhile: of the same order, where /proc says 0 of 0, which is unknown.
  const auto there = free_space(folder / "not" / "yet" / "there");
  ASSERT_TRUE(there.has_value());
  EXPECT_LT(*there / 2, *here);
  EXPECT_LT(*here / 2, *there);
  EXPECT_EQ(free_space("/proc/self"), std::nullopt);
}

TEST(FileLock, HasOneHolder) {
  const TempFolder folder;
  {
    const FileLock lock(folder / "run.lock");
    const std::string text = slurp(folder / "run.lock");
    EXPECT_TRUE(contains(text, "pid " + std::to_string(::getpid()) + " on ")) << text;
    const std::string said =
        message_of([&] { FileLock second(folder / "run.lock"); }, Exit::run_folder);
    EXPECT_TRUE(contains(said, "pid " + std::to_string(::getpid()))) << said;
    EXPECT_TRUE(contains(said, folder.path().string())) << said;
    const pid_t child = fork_child([&] {
      try {
        const FileLock other(folder / "run.lock");
      } catch (const Error& e) {
        return static_cast<int>(e.code);
      }
      return 0;
    });
    EXPECT_EQ(wait_for(child), 4);
  }
  EXPECT_NO_THROW(FileLock(folder / "run.lock"));
}

TEST(FileLock, RacingPairsHaveOneWinner) {
  const TempFolder folder;
  for (int round = 0; round < 100; ++round) {
    int gate[2], result[2];
    ASSERT_EQ(::pipe(gate), 0);
    ASSERT_EQ(::pipe(result), 0);
    const auto racer = [&] {
      ::close(gate[1]);
      ::close(result[1]);
      char end;
      if (::read(gate[0], &end, 1) != 0) return 1;
      try {
        const FileLock lock(folder / "run.lock");
        if (::read(result[0], &end, 1) != 0) return 1;  // holds it until both have tried
        return 0;
      } catch (const Error& e) {
        return static_cast<int>(e.code);
      }
    };
    const pid_t a = fork_child(racer), b = fork_child(racer);
    ::close(gate[0]);
    ::close(gate[1]);
    // The loser ends at once; the winner waits for us.
    int status = 0;
    const pid_t first = ::waitpid(-1, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 4) << status;
    ::close(result[0]);
    ::close(result[1]);
    EXPECT_EQ(wait_for(first == a ? b : a), 0);
  }
}

TEST(FileLock, EndsWithItsProcess) {
  const TempFolder folder;
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = fork_child([&] {
    const FileLock lock(folder / "run.lock");
    (void)!::write(ready[1], "x", 1);
    ::pause();
    return 0;
  });
  char go;
  ASSERT_EQ(::read(ready[0], &go, 1), 1);
  EXPECT_THROW(FileLock(folder / "run.lock"), Error);
  ::kill(child, SIGKILL);
  wait_for(child);
  EXPECT_NO_THROW(FileLock(folder / "run.lock"));
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST(FileLock, WhatCannotBeLookedForMayStillBeThere) {
  const TempFolder folder;
  const FileLock lock(folder / "lock");
  EXPECT_TRUE(lock.is_at(folder / "lock"));
  EXPECT_FALSE(lock.is_at(folder / "other"));
  EXPECT_FALSE(lock.is_at(folder / "lock" / "below"));
  fs::create_symlink("loop", folder / "loop");
  EXPECT_TRUE(contains(message_of([&] { lock.is_at(folder / "loop" / "lock"); }, Exit::write),
                       "cannot look for "));
}

TEST(FileLock, SaysWhyItCannotBeTaken) {
  const TempFolder folder;
  EXPECT_TRUE(contains(message_of([&] { FileLock(folder / "no" / "run.lock"); }, Exit::run_folder),
                       "No such file"));
}

}  // namespace
}  // namespace diffuse
