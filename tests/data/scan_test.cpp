// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "data/dataset.h"
#include "data/support.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;

DataOptions options_for(const PictureFolder& folder) {
  DataOptions options;
  options.path = folder.path();
  options.workers = 2;
  return options;
}

std::vector<std::string> paths(const DataScan& scan) {
  std::vector<std::string> out;
  for (const DataEntry& e : scan.entries) out.push_back(e.path);
  return out;
}

std::map<std::string, SkippedFile> by_path(const std::vector<SkippedFile>& skipped) {
  std::map<std::string, SkippedFile> out;
  for (const SkippedFile& s : skipped) out[s.path] = s;
  return out;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Scan, ShippedDigits) {
  DataOptions options;
  options.path = std::string(DIFFUSE_SOURCE_DIR) + "/data/digits";
  const DataScan scan = scan_folder(options, true);
  EXPECT_EQ(scan.entries.size(), 1797u);
  EXPECT_EQ(scan.skipped.size(), 0u);
  EXPECT_EQ(scan.label_names,
            (std::vector<std::string>{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}));
  std::vector<int> counts(10);
  for (const DataEntry& e : scan.entries) ++counts[static_cast<size_t>(e.label)];
  EXPECT_EQ(counts, (std::vector<int>{178, 182, 177, 183, 181, 182, 181, 179, 174, 180}));
}

TEST(Scan, SortsPathsByBytes) {
  const PictureFolder folder;
  for (const char* name : {"b/1.png",
                           "a/10.png",
                           "a/9.png",
                           "a-b/x.png",
                           "a/Z.png",
                           "a/sub/1.png",
                           "a/\xC3\xA4.png",
                           "a/\xFF.png"})
    folder.add_fixture("rgb.png", name);
  const DataScan scan = scan_folder(options_for(folder), true);
  EXPECT_EQ(paths(scan),
            (std::vector<std::string>{"a-b/x.png",
                                      "a/10.png",
                                      "a/9.png",
                                      "a/Z.png",
                                      "a/sub/1.png",
                                      "a/\xC3\xA4.png",
                                      "a/\xFF.png",
                                      "b/1.png"}));
  EXPECT_EQ(scan.label_names, (std::vector<std::string>{"a", "a-b", "b"}));
  EXPECT_EQ(scan.entries[0].label, 1);
  EXPECT_EQ(scan.entries[4].label, 0);
  EXPECT_EQ(scan.entries[7].label, 2);
}

TEST(Scan, LabelsFollowTheFolders) {
  const PictureFolder folder;
  folder.add_fixture("rgb.png", "one.png");
  folder.add_fixture("rgb.png", "two.png");
  DataOptions options = options_for(folder);
  const DataScan flat = scan_folder(options, true);
  EXPECT_TRUE(flat.label_names.empty());
  EXPECT_EQ(flat.entries[0].label, -1);
  folder.add_fixture("rgb.png", "cats/a.png");
  testing::internal::CaptureStderr();
  const DataScan mixed = scan_folder(options, true);
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(contains(said, "one.png") || contains(said, "two.png")) << said;
  EXPECT_TRUE(contains(said, "beside cats/")) << said;
  options.labels = Labels::none;
  testing::internal::CaptureStderr();
  const DataScan none = scan_folder(options, true);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  for (const DataScan* scan : {&mixed, &none}) {
    EXPECT_EQ(scan->entries.size(), 3u);
    EXPECT_TRUE(scan->label_names.empty());
    for (const DataEntry& e : scan->entries) EXPECT_EQ(e.label, -1);
  }
  // All in folders: classes again.
  options.labels = Labels::subfolder;
  fs::create_directory(folder / "dogs");
  fs::rename(folder / "one.png", folder / "dogs/one.png");
  fs::rename(folder / "two.png", folder / "dogs/two.png");
  const DataScan labelled = scan_folder(options, true);
  EXPECT_EQ(labelled.label_names, (std::vector<std::string>{"cats", "dogs"}));
}

TEST(Scan, NamesEverySkippedFile) {
  const PictureFolder folder;
  folder.add_fixture("rgb.png", "a/good.png");
  folder.add_fixture("444.jpg", "a/no-ending");
  folder.write("README.txt", "BM and other text");
  folder.write("a/Thumbs.db", "x");
  folder.write("a/notes.png", "text");
  folder.write("a/empty.jpg", "");
  folder.add_fixture("other.webp", "a/photo.webp");
  folder.add_fixture("other.gif", "a/film");
  folder.add_fixture("huge.png", "a/huge.png");
  folder.add_fixture("rgb.png", "a/._good.png");
  folder.add_fixture("rgb.png", ".hidden/x.png");
  folder.write("none/x.txt", "x");
  const DataScan scan = scan_folder(options_for(folder), true);
  EXPECT_EQ(paths(scan), (std::vector<std::string>{"a/good.png", "a/no-ending"}));
  EXPECT_EQ(scan.label_names, std::vector<std::string>{"a"});
  EXPECT_TRUE(std::is_sorted(scan.skipped.begin(),
                             scan.skipped.end(),
                             [](const auto& a, const auto& b) { return a.path < b.path; }));
  struct Case {
    const char* path;
    const char* reason;
    bool picture;
  };
  auto skipped = by_path(scan.skipped);
  const std::vector<Case> cases = {{"README.txt", "not a picture", false},
                                   {"a/Thumbs.db", "not a picture", false},
                                   {"a/notes.png", "not a picture", true},
                                   {"a/empty.jpg", "empty", true},
                                   {"a/photo.webp", "WebP is not supported", true},
                                   {"a/film", "GIF is not supported", true},
                                   {"a/huge.png", "65535x65535", true},
                                   {"a/._good.png", "hidden", false},
                                   {".hidden", "hidden", false},
                                   {"none/x.txt", "not a picture", false},
                                   {"none/", "without pictures", false}};
  EXPECT_EQ(skipped.size(), cases.size());
  for (const Case& c : cases) {
    EXPECT_TRUE(contains(skipped[c.path].reason, c.reason))
        << c.path << ": " << skipped[c.path].reason;
    EXPECT_EQ(skipped[c.path].picture, c.picture) << c.path;
  }
}

/// A zip archive of one stored file.
std::string zip_of(const std::string& name, const std::string& content) {
  const auto number = [](size_t value, int bytes) {
    std::string out;
    for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
    return out;
  };
  // Version, flags, method, time, date, checksum; sizes; lengths of the name and of more.
  const std::string fields = number(20, 2) + std::string(12, '\0') + number(content.size(), 4) +
                             number(content.size(), 4) + number(name.size(), 2) + number(0, 2);
  const std::string local = "PK\3\4" + fields + name + content;
  const std::string central = "PK\1\2" + number(20, 2) + fields + std::string(14, '\0') + name;
  return local + central + "PK\5\6" + number(0, 4) + number(1, 2) + number(1, 2) +
         number(central.size(), 4) + number(local.size(), 4) + number(0, 2);
}

/// A tar archive of one file.
std::string tar_of(const std::string& name, const std::string& content) {
  std::string header(512, '\0');
  header.replace(0, name.size(), name);
  header.replace(100, 7, "0000644");
  std::string size = "00000000000";
  for (size_t at = 11, rest = content.size(); at-- > 0; rest /= 8)
    size[at] = static_cast<char>('0' + rest % 8);
  header.replace(124, 11, size);
  header[156] = '0';
  header.replace(257,
                 8,
                 std::string("ustar\0"
                             "00",
                             8));
  return header + content + std::string(1536 - content.size() % 512, '\0');
}

TEST(Scan, ArchivesAndPicklesAreNamedAndNeverUnpacked) {
  const PictureFolder outer;
  fs::create_directory(outer / "data");
  const fs::path folder = outer / "data";
  const auto bytes = read_all(kFixtures / "rgb.png");
  const std::string picture(bytes.begin(), bytes.end());
  outer.write("data/good.png", picture);
  const std::vector<std::string> names{
      "../evil.png", (outer / "evil.png").string(), std::string("evil.png\0.txt", 13), "evil.png"};
  std::map<std::string, std::string> reasons;
  for (size_t i = 0; i < names.size(); ++i) {
    outer.write("data/" + std::to_string(i) + ".zip", zip_of(names[i], picture));
    outer.write("data/" + std::to_string(i) + ".tar", tar_of(names[i], picture));
    reasons[std::to_string(i) + ".zip"] = "a zip archive, which is never unpacked";
    reasons[std::to_string(i) + ".tar"] = "a tar archive, which is never unpacked";
  }
  for (const auto& [name, content, type] :
       std::vector<std::tuple<std::string, std::string, std::string>>{
           {"empty.zip", "PK\5\6" + std::string(18, '\0'), "a zip archive"},
           {"named.png", zip_of("a.png", picture), "a zip archive"},
           {"a.tgz", std::string("\x1F\x8B\x08\0\0", 5), "a gzip file"},
           {"a.tar.bz2", "BZh91AY", "a bzip2 file"},
           {"a.tar.xz",
            std::string("\xFD"
                        "7zXZ\0\0",
                        7),
            "an xz file"},
           {"a.zst", "\x28\xB5\x2F\xFD....", "a zstd file"},
           {"a.7z", "7z\xBC\xAF\x27\x1C..", "a 7z archive"},
           {"a.rar", "Rar!\x1A\7..", "a rar archive"},
           {"a.npy", "\x93NUMPY..", "a NumPy array"},
           {"a.h5", "\x89HDF\r\n\x1A\n..", "an HDF5 file"},
           {"a.pkl",
            "\x80\4\x95"
            "cos\nsystem\n",
            "a pickle"},
           {"data_batch_1", "\x80\2}q\1(U", "a pickle"}}) {
    outer.write("data/" + name, content);
    reasons[name] = type;
  }
  std::set<std::string> before, after;
  for (const auto& entry : fs::recursive_directory_iterator(outer.path()))
    before.insert(entry.path().string());
  DataOptions options;
  options.path = folder;
  const DataScan scan = scan_folder(options, true);
  for (const auto& entry : fs::recursive_directory_iterator(outer.path()))
    after.insert(entry.path().string());
  EXPECT_EQ(before, after);
  EXPECT_EQ(paths(scan), std::vector<std::string>{"good.png"});
  auto skipped = by_path(scan.skipped);
  EXPECT_EQ(skipped.size(), reasons.size());
  for (const auto& [name, reason] : reasons) {
    EXPECT_TRUE(contains(skipped[name].reason, reason)) << name << ": " << skipped[name].reason;
    EXPECT_EQ(skipped[name].picture, name == "named.png") << name;
  }
  // As the data themselves.
  options.path = folder / "0.tar";
  const std::string why = data_error([&] { scan_folder(options, true); });
  EXPECT_TRUE(contains(why, "is a tar archive, which is never unpacked; unpack it")) << why;
}

TEST(Scan, WithoutHeadersGoesByNames) {
  const PictureFolder folder;
  folder.write("a.JPEG", "text");
  folder.write("b.txt", "text");
  folder.add_fixture("rgb.png", "c");
  const DataScan scan = scan_folder(options_for(folder), false);
  EXPECT_EQ(paths(scan), std::vector<std::string>{"a.JPEG"});
  EXPECT_EQ(scan.skipped.size(), 2u);
}

TEST(Scan, PicturesThatAreTooLargeAreNamed) {
  const PictureFolder folder;
  folder.add_fixture("rgb.png", "a/small.png");
  const auto picture = read_all(kFixtures / "rgb.png");
  std::vector<uint8_t> large = picture;
  large.resize(large.size() + 5000);
  folder.write("a/large.png", large);
  folder.write("a/large.txt", std::string(9000, 'x'));
  DataOptions options = options_for(folder);
  options.max_file_bytes = static_cast<int64_t>(picture.size());
  const DataScan scan = scan_folder(options, true);
  EXPECT_EQ(paths(scan), std::vector<std::string>{"a/small.png"});
  const auto skipped = by_path(scan.skipped);
  EXPECT_TRUE(contains(skipped.at("a/large.png").reason,
                       "too large: " + std::to_string(large.size()) +
                           " bytes, data.max_file_bytes is " + std::to_string(picture.size())));
  EXPECT_TRUE(skipped.at("a/large.png").picture);
  // Of what is no picture the size does not matter.
  EXPECT_TRUE(contains(skipped.at("a/large.txt").reason, "not a picture"));
  EXPECT_FALSE(skipped.at("a/large.txt").picture);
}

TEST(Scan, FollowsLinkedFoldersOnce) {
  const PictureFolder folder, other;
  folder.add_fixture("rgb.png", "b/1.png");
  other.add_fixture("rgb.png", "2.png");
  other.add_fixture("rgb.png", "deep/3.png");
  fs::create_directory_symlink("..", folder / "b/up");          // a loop
  fs::create_directory_symlink("b", folder / "a");              // to a folder that is read anyway
  fs::create_directory_symlink(other.path(), folder / "out");   // elsewhere
  fs::create_directory_symlink(other.path(), folder / "out2");  // elsewhere, again
  fs::create_directory_symlink("self", folder / "self");        // to itself
  fs::create_symlink("1.png", folder / "b/link.png");
  fs::create_symlink("nowhere.png", folder / "b/broken.png");
  const DataScan scan = scan_folder(options_for(folder), true);
  EXPECT_EQ(paths(scan),
            (std::vector<std::string>{"b/1.png", "b/link.png", "out/2.png", "out/deep/3.png"}));
  auto skipped = by_path(scan.skipped);
  EXPECT_EQ(skipped.size(), 5u);
  for (const char* name : {"b/up", "a", "out2"})
    EXPECT_TRUE(contains(skipped[name].reason, "already read")) << name;
  EXPECT_FALSE(skipped["self"].reason.empty());
  EXPECT_TRUE(contains(skipped["b/broken.png"].reason, "dangling link"));
  EXPECT_TRUE(skipped["b/broken.png"].picture);
}

TEST(Scan, PipesSocketsAndDevicesAreNotOpened) {
  const PictureFolder folder;
  folder.add_fixture("rgb.png", "good.png");
  ASSERT_EQ(::mkfifo((folder / "pipe.png").c_str(), 0600), 0);
  fs::create_symlink("/dev/zero", folder / "zero.png");
  const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = folder / "socket.png";
  ASSERT_LT(name.size(), sizeof(address.sun_path));
  std::copy(name.begin(), name.end(), address.sun_path);
  ASSERT_EQ(::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  const DataScan scan = scan_folder(options_for(folder), true);
  ::close(socket);
  EXPECT_EQ(scan.entries.size(), 1u);
  auto skipped = by_path(scan.skipped);
  EXPECT_TRUE(contains(skipped["pipe.png"].reason, "pipe"));
  EXPECT_TRUE(contains(skipped["zero.png"].reason, "device"));
  EXPECT_TRUE(contains(skipped["socket.png"].reason, "socket"));
}

TEST(Scan, SizeMayStandBehindMuchMetadata) {
  const PictureFolder folder;
  const auto file = read_all(kFixtures / "444.jpg");
  const std::string segment = "\xFF\xED\xFF\xFF" + std::string(65533, '\0');
  std::vector<uint8_t> longer(file.begin(), file.begin() + 2);
  for (int i = 0; i < 3; ++i) longer.insert(longer.end(), segment.begin(), segment.end());
  longer.insert(longer.end(), file.begin() + 2, file.end());
  folder.write("long.jpg", longer);
  EXPECT_EQ(scan_folder(options_for(folder), true).entries.size(), 1u);
  EXPECT_EQ(decode_image(longer, {}).data, decode_image(file, {}).data);
}

TEST(Scan, FingerprintSeesNamesAndSizes) {
  const PictureFolder folder;
  folder.add_fixture("rgb.png", "1.png");
  folder.add_fixture("rgb.png", "2.png");
  const auto print = [&] { return scan_folder(options_for(folder), true).fingerprint; };
  const uint64_t first = print();
  folder.write("notes.txt", "no matter");
  EXPECT_EQ(print(), first);
  folder.add_fixture("grey.png", "2.png");
  const uint64_t second = print();
  EXPECT_NE(second, first);
  fs::rename(folder / "2.png", folder / "3.png");
  EXPECT_NE(print(), second);
}

TEST(Scan, ErrorsSayWhatToDo) {
  const PictureFolder folder;
  DataOptions options = options_for(folder);
  const auto why = [&] { return data_error([&] { scan_folder(options, true); }); };
  EXPECT_TRUE(contains(why(), "holds no picture; name a folder")) << why();
  folder.add_fixture("other.webp", "a.webp");
  EXPECT_TRUE(contains(why(), "a.webp: WebP is not supported")) << why();
  options.path = folder / "missing";
  EXPECT_TRUE(contains(why(), "No such file") && contains(why(), "--set data.path=DIR")) << why();
  options.path = folder / "a.webp";
  EXPECT_TRUE(contains(why(), "is not a folder")) << why();
  options.path = "";
  EXPECT_TRUE(contains(why(), "data.path is not set")) << why();
  options.path = "/" + std::string(5000, 'x');
  EXPECT_TRUE(contains(why(), "too long")) << why();
}

/// Root may read everything: drop to an ordinary user for the scope.
class AsOrdinaryUser {
 public:
  AsOrdinaryUser() : id_(::geteuid()) { ok_ = id_ != 0 || ::seteuid(65534) == 0; }
  ~AsOrdinaryUser() { restored_ = ::seteuid(id_) == 0; }
  bool ok() const { return ok_; }

 private:
  uid_t id_;
  bool ok_ = false, restored_ = false;
};

TEST(Scan, UnreadableFolderIsAnErrorUnreadableFileIsSkipped) {
  const PictureFolder folder;
  folder.add_fixture("rgb.png", "a/1.png");
  folder.add_fixture("rgb.png", "a/2.png");
  folder.add_fixture("rgb.png", "b/3.png");
  fs::permissions(folder.path(), fs::perms(0755));
  fs::permissions(folder / "a/2.png", fs::perms::none);
  {
    const AsOrdinaryUser user;
    ASSERT_TRUE(user.ok());
    const DataScan scan = scan_folder(options_for(folder), true);
    EXPECT_EQ(paths(scan), (std::vector<std::string>{"a/1.png", "b/3.png"}));
    ASSERT_EQ(scan.skipped.size(), 1u);
    EXPECT_TRUE(contains(scan.skipped[0].reason, "Permission denied"));
    EXPECT_TRUE(scan.skipped[0].picture);
  }
  fs::permissions(folder / "b", fs::perms::none);
  {
    const AsOrdinaryUser user;
    const std::string why = data_error([&] { scan_folder(options_for(folder), true); });
    EXPECT_TRUE(contains(why, "/b: Permission denied")) << why;
  }
  fs::permissions(folder / "b", fs::perms(0755));
}

}  // namespace
}  // namespace diffuse
