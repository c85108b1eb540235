// SPDX-License-Identifier: MIT
#include "io/safetensors.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <bit>
#include <cstdlib>
#include <cstring>
#include <random>

#include "base/error.h"
#include "base/files.h"
#include "support/temp_folder.h"
#include "support/text_files.h"

namespace diffuse {
namespace {

template <class T>
std::span<const std::byte> raw(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

void write_safetensors(const std::filesystem::path& path,
                       const std::vector<TensorView>& tensors,
                       const Metadata& metadata = {}) {
  write_new_file(path, safetensors_parts(tensors, metadata).all());
}

/// A file with this header and `data` bytes of data.
std::string file_of(const std::string& header, size_t data) {
  const uint64_t length = header.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out + header + std::string(data, '\x5a');
}

/// What the reader says to these bytes; empty when it accepts them.
std::string complaint(const std::string& bytes, const std::string& name = "x.safetensors") {
  const TempFolder folder;
  spill(folder / name, bytes);
  try {
    const SafetensorsFile file(folder / name);
    return "";
  } catch (const Error& e) {
    EXPECT_EQ(e.code, Exit::checkpoint);
    EXPECT_NE(std::string(e.what()).find((folder / name).string()), std::string::npos) << e.what();
    return e.what();
  }
}

TEST(Safetensors, ReadsBackWhatItWrote) {
  const TempFolder folder;
  const std::vector<float> f{1.5f, -2, 3, 4, 5, 6};
  const std::vector<int64_t> i{7, -8};
  const std::vector<uint8_t> u{9, 10, 11};
  const Metadata metadata{{"format", "pt"}, {"quote\"", "line\nend"}};
  write_safetensors(folder / "a.safetensors",
                    {{"u", "U8", {3}, raw(u)},
                     {"w", "F32", {2, 3}, raw(f)},
                     {"i", "I64", {2}, raw(i)},
                     {"scalar", "F32", {}, raw(f).first(4)},
                     {"empty", "BF16", {0, 4}, {}}},
                    metadata);
  const SafetensorsFile file(folder / "a.safetensors");
  EXPECT_EQ(file.metadata(), metadata);
  ASSERT_EQ(file.tensors().size(), 5u);
  const TensorView* w = file.find("w");
  ASSERT_NE(w, nullptr);
  EXPECT_EQ(w->dtype, "F32");
  EXPECT_EQ(w->shape, (std::vector<int64_t>{2, 3}));
  ASSERT_EQ(w->bytes.size(), 24u);
  EXPECT_EQ(std::memcmp(w->bytes.data(), f.data(), 24), 0);
  EXPECT_EQ(std::memcmp(file.find("i")->bytes.data(), i.data(), 16), 0);
  EXPECT_EQ(std::memcmp(file.find("u")->bytes.data(), u.data(), 3), 0);
  EXPECT_TRUE(file.find("scalar")->shape.empty());
  EXPECT_EQ(file.find("empty")->shape, (std::vector<int64_t>{0, 4}));
  EXPECT_EQ(file.find("absent"), nullptr);
}

TEST(Safetensors, KeepsTheGivenOrderWithinATypeAndAlignsEveryTensor) {
  const TempFolder folder;
  const std::vector<uint8_t> bytes(64);
  std::vector<TensorView> tensors;
  const std::vector<std::pair<std::string, size_t>> types{{"U8", 1},
                                                          {"F64", 8},
                                                          {"BF16", 2},
                                                          {"F32", 4},
                                                          {"U8", 1},
                                                          {"F16", 2},
                                                          {"F32", 4},
                                                          {"I64", 8}};
  for (size_t k = 0; k < types.size(); ++k)
    tensors.push_back(
        {"t" + std::to_string(k), types[k].first, {3}, raw(bytes).first(3 * types[k].second)});
  write_safetensors(folder / "a", tensors);
  const SafetensorsFile file(folder / "a");
  std::vector<std::string> names;
  for (const TensorView& t : file.tensors()) {
    names.push_back(t.name);
    // The file is mapped at a page boundary, so addresses show the alignment within the file.
    EXPECT_EQ(reinterpret_cast<uintptr_t>(t.bytes.data()) % (t.bytes.size() / 3), 0u) << t.name;
  }
  EXPECT_EQ(names, (std::vector<std::string>{"t1", "t7", "t3", "t6", "t2", "t5", "t0", "t4"}));
}

TEST(Safetensors, EqualInputGivesEqualBytes) {
  const TempFolder folder;
  const std::vector<float> f{1, 2};
  for (const char* name : {"a", "b"})
    write_safetensors(folder / name, {{"x", "F32", {2}, raw(f)}}, {{"k", "v"}});
  EXPECT_EQ(slurp(folder / "a"), slurp(folder / "b"));
  EXPECT_EQ(slurp(folder / "a").substr(8, 67),
            R"({"__metadata__":{"k":"v"},"x":{"dtype":"F32","shape":[2],"data_offs)");
}

TEST(Safetensors, ModeObeysTheUmask) {
  const TempFolder folder;
  const mode_t before = ::umask(0027);
  write_safetensors(folder / "a", {});
  ::umask(before);
  struct stat info {};
  ASSERT_EQ(::stat((folder / "a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640u);
}

TEST(Safetensors, NeverOverwrites) {
  const TempFolder folder;
  spill(folder / "a", "precious");
  try {
    write_safetensors(folder / "a", {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code, Exit::write);
  }
  EXPECT_EQ(slurp(folder / "a"), "precious");
}

TEST(Safetensors, RefusesNamesThatAreNoText) {
  const TempFolder folder;
  EXPECT_THROW(write_safetensors(folder / "a", {{"\xff", "U8", {0}, {}}}), Error);
  EXPECT_FALSE(std::filesystem::exists(folder / "a"));
}

TEST(Safetensors, WrongTensorsAreABug) {
  const std::vector<uint8_t> bytes(8);
  EXPECT_THROW(safetensors_parts({{"a", "F32", {3}, raw(bytes)}}), std::logic_error);
  EXPECT_THROW(safetensors_parts({{"a", "F31", {2}, raw(bytes)}}), std::logic_error);
  EXPECT_THROW(safetensors_parts({{"a", "F32", {-2}, raw(bytes)}}), std::logic_error);
  EXPECT_THROW(safetensors_parts({{"a", "F32", {2}, raw(bytes)}, {"a", "F32", {2}, raw(bytes)}}),
               std::logic_error);
  EXPECT_THROW(safetensors_parts({{"__metadata__", "F32", {2}, raw(bytes)}}), std::logic_error);
}

// Written by make_fixtures.py: element k is 3 k - 4, or whether k is odd.
template <class T>
void expect_ramp(const SafetensorsFile& file, const std::string& name, const std::string& dtype) {
  const TensorView* t = file.find("t." + name);
  ASSERT_NE(t, nullptr) << name;
  EXPECT_EQ(t->dtype, dtype);
  EXPECT_EQ(t->shape, (std::vector<int64_t>{2, 3}));
  ASSERT_EQ(t->bytes.size(), 6 * sizeof(T));
  for (int64_t k = 0; k < 6; ++k) {
    T value;
    std::memcpy(&value, t->bytes.data() + k * static_cast<int64_t>(sizeof(T)), sizeof(T));
    EXPECT_EQ(value, static_cast<T>(3 * k - 4)) << name << " " << k;
  }
}

TEST(Safetensors, ReadsFilesOfThePythonPackage) {
  const std::filesystem::path fixtures = DIFFUSE_SOURCE_DIR "/tests/io/fixtures";
  const SafetensorsFile file(fixtures / "python.safetensors");
  EXPECT_EQ(file.metadata(), (Metadata{{"format", "np"}, {"ключ", "значение"}}));
  EXPECT_EQ(file.tensors().size(), 15u);
  expect_ramp<uint8_t>(file, "uint8", "U8");
  expect_ramp<int8_t>(file, "int8", "I8");
  expect_ramp<int16_t>(file, "int16", "I16");
  expect_ramp<uint16_t>(file, "uint16", "U16");
  expect_ramp<int32_t>(file, "int32", "I32");
  expect_ramp<uint32_t>(file, "uint32", "U32");
  expect_ramp<float>(file, "float32", "F32");
  expect_ramp<int64_t>(file, "int64", "I64");
  expect_ramp<uint64_t>(file, "uint64", "U64");
  expect_ramp<double>(file, "float64", "F64");
  const TensorView* flags = file.find("t.bool");
  ASSERT_NE(flags, nullptr);
  EXPECT_EQ(flags->dtype, "BOOL");
  for (size_t k = 0; k < 6; ++k) EXPECT_EQ(std::to_integer<size_t>(flags->bytes[k]), k % 2);
  const TensorView* half = file.find("t.float16");
  ASSERT_NE(half, nullptr);
  EXPECT_EQ(half->dtype, "F16");
  // IEEE half: -4 = 0xC400, -1 = 0xBC00, 2 = 0x4000, 5 = 0x4500, 8 = 0x4800, 11 = 0x4980.
  const std::vector<uint16_t> halves{0xC400, 0xBC00, 0x4000, 0x4500, 0x4800, 0x4980};
  EXPECT_EQ(std::memcmp(half->bytes.data(), halves.data(), 12), 0);
  ASSERT_NE(file.find("scalar"), nullptr);
  EXPECT_TRUE(file.find("scalar")->shape.empty());
  EXPECT_EQ(file.find("empty")->shape, (std::vector<int64_t>{0, 5}));
  EXPECT_NE(file.find("naïve 名前 \"quoted\"\n"), nullptr);

  const SafetensorsFile bf16(fixtures / "python_bf16.safetensors");
  const TensorView* b = bf16.find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->dtype, "BF16");
  uint16_t upper[3];
  ASSERT_EQ(b->bytes.size(), sizeof(upper));
  std::memcpy(upper, b->bytes.data(), sizeof(upper));
  EXPECT_EQ(std::bit_cast<float>(uint32_t{upper[0]} << 16), 1.0f);
  EXPECT_EQ(std::bit_cast<float>(uint32_t{upper[1]} << 16), -2.5f);
}

struct Case {
  std::string name;
  std::string bytes;
  std::string reason;  // part of the message
};

std::vector<Case> bad_files() {
  const std::string ok = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  const auto one = [](const std::string& fields) { return file_of("{\"a\":{" + fields + "}}", 4); };
  std::string deep;
  for (int i = 0; i < 1'000'000; ++i) deep += "{\"a\":";
  std::string deep_lists = "{\"a\":{\"shape\":";
  deep_lists.append(1'000'000, '[');
  std::string rank = "[1";
  for (int i = 0; i < 64; ++i) rank += ",1";
  std::string huge_length = file_of("{" + ok + "}", 4);
  huge_length[7] = '\x7f';
  std::string over_limit = file_of("{}", 0);
  over_limit[0] = '\x01', over_limit[1] = '\xe1', over_limit[2] = '\xf5', over_limit[3] = '\x05';
  return {
      {"empty", "", "0 bytes"},
      {"seven_bytes", std::string(7, '\0'), "7 bytes"},
      {"no_header", std::string(8, '\0'), "start with '{'"},
      {"header_beyond_end", file_of("{}", 0).substr(0, 9), "ends at byte 10"},
      {"length_overflows", huge_length, "above the limit"},
      {"length_above_limit", over_limit, "100000001"},
      {"not_json", file_of("{hello}", 0), "not valid JSON"},
      {"unfinished", file_of("{" + ok, 4), "not valid JSON"},
      {"two_values", file_of("{" + ok + "}{}", 4), "not valid JSON"},
      {"trailing_text", file_of("{" + ok + "} x", 4), "not valid JSON"},
      {"trailing_nul", file_of("{" + ok + "}" + std::string(3, '\0'), 4), "NUL"},
      {"nul_then_text", file_of("{" + ok + "}" + std::string("\0junk", 5), 4), "NUL"},
      {"nul_inside", file_of("{" + ok + std::string(1, '\0') + "}", 4), "NUL"},
      {"leading_space", file_of(" {" + ok + "}", 4), "start with '{'"},
      {"byte_order_mark", file_of("\xef\xbb\xbf{" + ok + "}", 4), "start with '{'"},
      {"list", file_of("[]", 0), "start with '{'"},
      {"invalid_utf8",
       file_of("{\"\xff\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0),
       "not valid JSON"},
      {"lone_surrogate",
       file_of(R"({"\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", 0),
       "not valid JSON"},
      {"comment", file_of("{/**/" + ok + "}", 4), "not valid JSON"},
      {"deep_objects", file_of(deep, 0), "unknown field \"a\""},
      {"deep_lists", file_of(deep_lists, 0), "a list under"},
      {"duplicate_name", file_of("{" + ok + "," + ok + "}", 4), "\"a\" occurs twice"},
      {"duplicate_escaped_name",
       file_of("{" + ok + R"(,"\u0061":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}})", 4),
       "\"a\" occurs twice"},
      {"duplicate_metadata_key",
       file_of(R"({"__metadata__":{"k":"1","k":"2"}})", 0),
       "\"k\" occurs twice"},
      {"duplicate_metadata",
       file_of(R"({"__metadata__":{},"__metadata__":{}})", 0),
       "occurs twice"},
      {"null_metadata", file_of(R"({"__metadata__":null})", 0), "null under \"__metadata__\""},
      {"metadata_number", file_of(R"({"__metadata__":{"k":1}})", 0), "a number under \"k\""},
      {"metadata_nested", file_of(R"({"__metadata__":{"k":{}}})", 0), "an object under \"k\""},
      {"metadata_list", file_of(R"({"__metadata__":[]})", 0), "a list under"},
      {"metadata_bool", file_of(R"({"__metadata__":{"k":true}})", 0), "true or false"},
      {"tensor_is_text", file_of(R"({"a":"U8"})", 0), "a string under \"a\""},
      {"tensor_is_null", file_of(R"({"a":null})", 0), "null under \"a\""},
      {"unknown_field",
       one(R"("dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1)"),
       "unknown field \"x\""},
      {"duplicate_dtype",
       one(R"("dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4])"),
       "\"dtype\" occurs twice"},
      {"duplicate_shape",
       one(R"("dtype":"U8","shape":[4],"shape":[4],"data_offsets":[0,4])"),
       "\"shape\" occurs twice"},
      {"no_dtype", one(R"("shape":[4],"data_offsets":[0,4])"), "is missing"},
      {"no_shape", one(R"("dtype":"U8","data_offsets":[0,4])"), "is missing"},
      {"no_offsets", one(R"("dtype":"U8","shape":[4])"), "is missing"},
      {"unknown_dtype",
       one(R"("dtype":"u8","shape":[4],"data_offsets":[0,4])"),
       "unknown dtype \"u8\""},
      {"dtype_number",
       one(R"("dtype":8,"shape":[4],"data_offsets":[0,4])"),
       "a number under \"dtype\""},
      {"shape_scalar",
       one(R"("dtype":"U8","shape":4,"data_offsets":[0,4])"),
       "a number under \"shape\""},
      {"shape_text", one(R"("dtype":"U8","shape":["4"],"data_offsets":[0,4])"), "a string under"},
      {"shape_nested", one(R"("dtype":"U8","shape":[[4]],"data_offsets":[0,4])"), "a list under"},
      {"shape_negative", one(R"("dtype":"U8","shape":[-4],"data_offsets":[0,4])"), "negative"},
      {"shape_two_negatives",
       one(R"("dtype":"U8","shape":[-2,-2],"data_offsets":[0,4])"),
       "negative"},
      {"shape_float",
       one(R"("dtype":"U8","shape":[4.0],"data_offsets":[0,4])"),
       "no 64-bit integer"},
      {"shape_exponent",
       one(R"("dtype":"U8","shape":[4e0],"data_offsets":[0,4])"),
       "no 64-bit integer"},
      {"shape_above_int64",
       one(R"("dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,4])"),
       "too large"},
      {"shape_above_uint64",
       one(R"("dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,4])"),
       "no 64-bit integer"},
      {"shape_product_overflows",
       one(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,4])"),
       "too large"},
      {"shape_product_wraps_to_size",
       one(R"("dtype":"U8","shape":[4,4611686018427387905],"data_offsets":[0,4])"),
       "too large"},
      {"bits_overflow",
       one(R"("dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,4])"),
       "too large"},
      {"rank_65",
       file_of(R"({"a":{"dtype":"U8","shape":)" + rank + R"(],"data_offsets":[0,1]}})", 1),
       "64 dimensions"},
      {"sub_byte_rest",
       file_of(R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1),
       "whole bytes"},
      {"size_too_small", one(R"("dtype":"U8","shape":[5],"data_offsets":[0,4])"), "need 5"},
      {"size_too_large", one(R"("dtype":"U8","shape":[3],"data_offsets":[0,4])"), "need 3"},
      {"size_of_other_dtype", one(R"("dtype":"F32","shape":[4],"data_offsets":[0,4])"), "need 16"},
      {"offsets_one", one(R"("dtype":"U8","shape":[4],"data_offsets":[0])"), "fewer than two"},
      {"offsets_three", one(R"("dtype":"U8","shape":[4],"data_offsets":[0,4,8])"), "more than two"},
      {"offsets_text", one(R"("dtype":"U8","shape":[4],"data_offsets":"0,4")"), "a string under"},
      {"offsets_negative", one(R"("dtype":"U8","shape":[4],"data_offsets":[-4,0])"), "negative"},
      {"offsets_reversed",
       one(R"("dtype":"U8","shape":[4],"data_offsets":[4,0])"),
       "before it begins"},
      {"offsets_beyond_end",
       one(R"("dtype":"U8","shape":[5],"data_offsets":[0,5])"),
       "byte 5 of 4"},
      {"offsets_wrap",
       one(R"("dtype":"U8","shape":[4],"data_offsets":[18446744073709551612,18446744073709551615])"),
       "cut short"},
      {"overlap",
       file_of("{" + ok + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})", 6),
       "overlaps"},
      {"same_data_twice",
       file_of("{" + ok + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4),
       "overlaps"},
      {"hole_first",
       file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", 8),
       "unused bytes"},
      {"hole_between",
       file_of("{" + ok + R"(,"b":{"dtype":"U8","shape":[1],"data_offsets":[5,6]}})", 6),
       "unused bytes"},
      {"trailing_data", file_of("{" + ok + "}", 5), "1 bytes follow"},
      {"data_without_tensors", file_of("{}", 1), "1 bytes follow"},
      {"tensor_as_list", file_of(R"({"a":["U8",[4],[0,4]]})", 4), "a list under \"a\""},
      {"large_dimension",
       file_of(R"({"a":{"dtype":"U8","shape":[0,9223372036854775808],"data_offsets":[0,0]}})", 0),
       "a dimension is too large"},
      {"empty_tensor_in_the_middle",
       file_of("{" + ok + R"(,"b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})", 4),
       "overlaps"},
  };
}

std::vector<Case> odd_but_good_files() {
  const std::string ok = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  return {
      {"no_tensors", file_of("{}", 0), ""},
      {"empty_metadata", file_of(R"({"__metadata__":{}})", 0), ""},
      {"trailing_spaces", file_of("{" + ok + "}     ", 4), ""},
      {"white_space", file_of("{ \n\t" + ok + "\r}\n", 4), ""},
      {"odd_header_length", file_of("{" + ok + "} ", 4), ""},
      {"escaped_name",
       file_of(R"({"\u00e4\ud83d\ude00":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4),
       ""},
      {"empty_name", file_of(R"({"":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4), ""},
      {"fields_in_other_order",
       file_of(R"({"a":{"data_offsets":[0,4],"shape":[4],"dtype":"U8"}})", 4),
       ""},
      {"scalar", file_of(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", 4), ""},
      {"empty_tensor_at_both_ends",
       file_of("{" + ok +
                   R"(,"b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                   R"("c":{"dtype":"U8","shape":[7,0],"data_offsets":[4,4]}})",
               4),
       ""},
      {"zero_after_large",
       file_of(R"({"a":{"dtype":"F32","shape":[2305843009213693952,0],"data_offsets":[0,0]}})", 0),
       ""},
      {"zero_of_more_than_63_bits",
       file_of(R"({"a":{"dtype":"U8","shape":[4611686018427387904,3,0],"data_offsets":[0,0]}})", 0),
       ""},
      {"order_unlike_data",
       file_of(
           R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
           4),
       ""},
      {"half_bytes", file_of(R"({"a":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}})", 4), ""},
  };
}

TEST(Safetensors, RefusesEveryBadHeader) {
  for (const Case& c : bad_files()) {
    const std::string said = complaint(c.bytes);
    EXPECT_NE(said.find(c.reason), std::string::npos) << c.name << ": \"" << said << "\"";
    EXPECT_FALSE(said.empty()) << c.name;
    EXPECT_LT(said.size(), 1000u) << c.name;
  }
}

TEST(Safetensors, KnowsAPickleByItsStartOrItsName) {
  const struct {
    const char* name;
    std::string bytes;
    bool pickle = true;
  } cases[] = {{"zip", "PK\3\4 and more"},
               {"bare", "\x80\2}q."},
               {"newest", "\x80\5\x95."},
               {"a.pt", "anything"},
               {"a.pth", "anything"},
               {"a.ckpt", "anything"},
               {"a.pkl", ""},
               {"a.bin", "x"},
               {"another_zip", "PK\5\6 and more", false},
               {"not_quite", "PK\3 and more", false},
               {"older", "\x80\1}q.", false},
               {"later", "\x80\6}q.", false},
               {"a.safetensors", "anything", false}};
  for (const auto& c : cases)
    EXPECT_EQ(complaint(c.bytes, c.name).find("is a pickle") != std::string::npos, c.pickle)
        << c.name;
}

TEST(Safetensors, AcceptsOddButLegalHeaders) {
  for (const Case& c : odd_but_good_files()) EXPECT_EQ(complaint(c.bytes), "") << c.name;
}

// compare_with_reference.py holds this corpus against the Python package.
TEST(Safetensors, CorpusForTheReference) {
  const char* folder = std::getenv("DIFFUSE_SAFETENSORS_CORPUS");
  if (folder == nullptr) GTEST_SKIP() << "DIFFUSE_SAFETENSORS_CORPUS names no folder";
  for (const Case& c : bad_files())
    spill(std::filesystem::path(folder) / ("bad." + c.name), c.bytes);
  for (const Case& c : odd_but_good_files())
    spill(std::filesystem::path(folder) / ("good." + c.name), c.bytes);
}

TEST(Safetensors, FindsEveryTruncationAndExtraByte) {
  const std::string whole = slurp(DIFFUSE_SOURCE_DIR "/tests/io/fixtures/python.safetensors");
  const TempFolder folder;
  for (size_t length = 0; length < whole.size(); ++length) {
    spill(folder / "x", whole.substr(0, length));
    ASSERT_THROW(SafetensorsFile(folder / "x"), Error) << length;
  }
  EXPECT_EQ(complaint(whole), "");
  EXPECT_NE(complaint(whole + '\0'), "");
}

TEST(Safetensors, DamagedHeadersNeverLeadOutsideTheFile) {
  const std::string whole = slurp(DIFFUSE_SOURCE_DIR "/tests/io/fixtures/python.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, whole.data(), 8);
  const TempFolder folder;
  std::mt19937 random(1);
  int accepted = 0;
  for (int round = 0; round < 5000; ++round) {
    std::string bytes = whole;
    for (uint32_t k = random() % 3 + 1; k > 0; --k) {
      const size_t place = random() % (8 + header);
      if (random() % 2 == 0)
        bytes[place] = "0123456789[]{},:\"a-. \0\xff"[random() % 23];
      else
        bytes[place] = static_cast<char>(bytes[place] ^ (1 << random() % 8));
    }
    spill(folder / "x", bytes);
    try {
      const SafetensorsFile file(folder / "x");
      ++accepted;
      unsigned sum = 0;  // reads every byte: AddressSanitizer would see one outside
      for (const TensorView& t : file.tensors())
        for (const std::byte b : t.bytes) sum += std::to_integer<unsigned>(b);
      EXPECT_GT(sum, 0u);
    } catch (const Error& e) {
      EXPECT_EQ(e.code, Exit::checkpoint);
    }
  }
  // A letter of a name may change unnoticed, most else not: both kinds must have been seen.
  EXPECT_GT(accepted, 50);
  EXPECT_LT(accepted, 2500);
}

TEST(Safetensors, CountsTheValuesOfAnyShapeThatItAccepts) {
  const auto count = [](std::vector<int64_t> shape) {
    return TensorView{"", "U8", std::move(shape), {}}.values();
  };
  EXPECT_EQ(count({}), 1);
  EXPECT_EQ(count({2, 3}), 6);
  EXPECT_EQ(count({int64_t{1} << 62, 3, 0}), 0);
  EXPECT_EQ(count({0, int64_t{1} << 62, int64_t{1} << 62}), 0);
}

// Another's words neither forge a line of ours nor end within a character.
TEST(Safetensors, NamesInMessagesArePrintable) {
  const std::string forged = complaint(file_of(
      R"({"a\nerror: \u001b[31mall is lost":{"dtype":"U8","shape":[9],"data_offsets":[0,4]}})", 4));
  EXPECT_NE(forged.find("tensor \"a\\x0aerror: \\x1b[31mall is lost\""), std::string::npos)
      << forged;
  EXPECT_EQ(forged.find('\n'), std::string::npos);
  std::string euros;
  for (int i = 0; i < 100; ++i) euros += "\xE2\x82\xAC";
  const std::string cut = complaint(
      file_of("{\"" + euros + R"(":{"dtype":"U8","shape":[9],"data_offsets":[0,4]}})", 4));
  EXPECT_NE(cut.find("\"" + euros.substr(0, 78) + "...\""), std::string::npos) << cut;
}

TEST(Safetensors, NeverReadsPickle) {
  for (const auto& [bytes, name] : std::vector<std::pair<std::string, std::string>>{
           {std::string("PK\x03\x04\x00\x00\x08\x08\x00\x00", 10), "model.bin"},
           {std::string("\x80\x02}q\x00.", 6), "model"},
           {std::string("\x80\x04\x95....", 7), "model.pkl"},
           {"whatever it holds", "model.pt"},
           {"whatever it holds", "model.pth"},
           {"whatever it holds", "last.ckpt"}}) {
    const std::string said = complaint(bytes, name);
    EXPECT_NE(said.find("so it never is"), std::string::npos) << said;
    EXPECT_NE(said.find("save_file(torch.load("), std::string::npos) << said;
  }
  // What counts is the content: a good file may be called anything.
  EXPECT_EQ(complaint(file_of("{}", 0), "model.pt"), "");
}

TEST(Safetensors, RefusesWhatIsNoFile) {
  const TempFolder folder;
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  for (const auto& path : {folder / "fifo", folder.path(), folder / "absent"}) {
    try {
      const SafetensorsFile file(path);
      FAIL() << path;
    } catch (const Error& e) {
      EXPECT_EQ(e.code, Exit::checkpoint);
      EXPECT_NE(std::string(e.what()).find(path.string()), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace diffuse
