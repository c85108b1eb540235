// SPDX-License-Identifier: MIT
#include "io/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"

namespace diffuse {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

using nlohmann::json;

constexpr uint64_t kPrefix = 8;
constexpr uint64_t kMaxHeader = 100'000'000;  // the reference implementation's limit
constexpr size_t kMaxRank = 64;               // LibTorch's limit
constexpr const char* kMetadataKey = "__metadata__";

struct Dtype {
  std::string_view name;
  uint64_t bits;
};
constexpr std::array<Dtype, 20> kDtypes{
    {{"BOOL", 8}, {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
     {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},
     {"U16", 16}, {"F16", 16},    {"BF16", 16},   {"I32", 32},    {"U32", 32},
     {"F32", 32}, {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}}};

std::optional<uint64_t> dtype_bits(std::string_view name) {
  for (const Dtype& d : kDtypes)
    if (d.name == name) return d.bits;
  return std::nullopt;
}

/// Bytes of a tensor; none when the number overflows or sub-byte elements do not fill whole bytes.
std::optional<uint64_t> tensor_bytes(uint64_t bits, const std::vector<int64_t>& shape) {
  uint64_t total = 1;
  for (const int64_t n : shape)
    if (n < 0 || __builtin_mul_overflow(total, static_cast<uint64_t>(n), &total))
      return std::nullopt;
  if (__builtin_mul_overflow(total, bits, &total)) return std::nullopt;
  if (total % 8 != 0) return std::nullopt;
  return total / 8;
}

/// A file's own words in a message: on one line, and not many.
std::string shorten(const std::string& name) {
  constexpr size_t kLongest = 80;
  if (name.size() <= kLongest) return printable(name, true);
  size_t end = kLongest;
  while (end > 0 && (static_cast<unsigned char>(name[end]) & 0xC0) == 0x80) --end;
  return printable(name.substr(0, end), true) + "...";
}

struct Entry {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<uint64_t> offsets;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

/// Receives the header's JSON piece by piece, so that duplicate keys are seen and nothing is built
/// from a header that has the wrong form. A handler that returns false stops the parser; `error`
/// says why.
class HeaderReader final : public json::json_sax_t {
 public:
  std::string error;
  std::vector<Entry> entries;
  Metadata metadata;

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("true or false"); }
  bool number_integer(number_integer_t) override { return unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return unexpected("a number that is no 64-bit integer");
  }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::shape) {
      auto& shape = entries.back().shape;
      if (value > static_cast<uint64_t>(INT64_MAX)) return fail("a dimension is too large");
      if (shape.size() == kMaxRank)
        return fail("more than " + std::to_string(kMaxRank) + " dimensions");
      shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (place_ == Place::offsets) {
      auto& offsets = entries.back().offsets;
      if (offsets.size() == 2) return fail("data_offsets has more than two numbers");
      offsets.push_back(value);
      return true;
    }
    return unexpected("a number");
  }

  bool string(string_t& value) override {
    if (place_ == Place::metadata) {
      metadata[key_] = value;
      return true;
    }
    if (place_ == Place::tensor && key_ == "dtype") {
      entries.back().dtype = value;
      return true;
    }
    return unexpected("a string");
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::outside) {
      place_ = Place::top;
    } else if (place_ == Place::top && key_ == kMetadataKey) {
      place_ = Place::metadata;
    } else if (place_ == Place::top) {
      place_ = Place::tensor;
      entries.push_back({});
      entries.back().name = key_;
    } else {
      return unexpected("an object");
    }
    return true;
  }

  bool key(string_t& name) override {
    key_ = name;
    if (place_ == Place::top && !names_.insert(name).second)
      return fail("the name \"" + shorten(name) + "\" occurs twice");
    if (place_ == Place::metadata && metadata.count(name) != 0)
      return fail("the metadata key \"" + shorten(name) + "\" occurs twice");
    if (place_ == Place::tensor) {
      Entry& e = entries.back();
      bool* seen = name == "dtype"          ? &e.has_dtype
                   : name == "shape"        ? &e.has_shape
                   : name == "data_offsets" ? &e.has_offsets
                                            : nullptr;
      if (seen == nullptr) return fail("unknown field \"" + shorten(name) + "\"");
      if (*seen) return fail("the field \"" + name + "\" occurs twice");
      *seen = true;
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::tensor) {
      const Entry& e = entries.back();
      if (!e.has_dtype || !e.has_shape || !e.has_offsets)
        return fail("dtype, shape or data_offsets is missing");
      if (e.offsets.size() != 2) return fail("data_offsets has fewer than two numbers");
    }
    place_ = place_ == Place::top ? Place::outside : Place::top;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ == Place::tensor && key_ == "shape") {
      place_ = Place::shape;
    } else if (place_ == Place::tensor && key_ == "data_offsets") {
      place_ = Place::offsets;
    } else {
      return unexpected("a list");
    }
    return true;
  }

  bool end_array() override {
    place_ = Place::tensor;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const json::exception&) override {
    error = "the header is not valid JSON at its byte " + std::to_string(position);
    return false;
  }

 private:
  enum class Place { outside, top, metadata, tensor, shape, offsets };

  bool fail(const std::string& what) {
    error = what;
    if (place_ == Place::tensor || place_ == Place::shape || place_ == Place::offsets)
      error = "tensor \"" + shorten(entries.back().name) + "\": " + what;
    return false;
  }
  bool unexpected(const std::string& what) {
    return fail(place_ == Place::outside ? "the header is not an object"
                                         : what + " under \"" + shorten(key_) + "\"");
  }

  Place place_ = Place::outside;
  std::string key_;
  std::unordered_set<std::string> names_;
};

[[noreturn]] void damaged(const std::filesystem::path& path, const std::string& reason) {
  throw Error(Exit::checkpoint,
              "cannot use " + path.string() + " as safetensors: " + reason +
                  "; the file is damaged or was written wrongly: take another copy");
}

/// Files of torch.save: zip archives, bare pickles, and the names that they usually have.
bool looks_like_pickle(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  const auto at = [&](size_t i) { return std::to_integer<unsigned>(bytes[i]); };
  if (bytes.size() > kPrefix && at(kPrefix) == '{') return false;
  if (bytes.size() >= 4 && at(0) == 'P' && at(1) == 'K' && at(2) == 3 && at(3) == 4) return true;
  if (bytes.size() >= 2 && at(0) == 0x80 && at(1) >= 2 && at(1) <= 5) return true;
  const std::string extension = path.extension().string();
  return extension == ".pt" || extension == ".pth" || extension == ".ckpt" || extension == ".pkl" ||
         extension == ".bin";
}

}  // namespace

int64_t TensorView::values() const {
  // Sizes beside a zero may be as large as they like.
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  int64_t count = 1;
  for (const int64_t n : shape) count *= n;
  return count;
}

std::vector<std::span<const std::byte>> SafetensorsParts::all() const {
  std::vector<std::span<const std::byte>> out{head};
  out.insert(out.end(), data.begin(), data.end());
  return out;
}

SafetensorsParts safetensors_parts(const std::vector<TensorView>& tensors,
                                   const Metadata& metadata) {
  std::vector<const TensorView*> order;
  for (const TensorView& t : tensors) {
    const auto bits = dtype_bits(t.dtype);
    DIFFUSE_CHECK(bits.has_value());
    DIFFUSE_CHECK(t.name != kMetadataKey);
    DIFFUSE_CHECK(tensor_bytes(*bits, t.shape) == t.bytes.size());
    order.push_back(&t);
  }
  // The format allows no padding between tensors: only this order keeps every one aligned.
  std::stable_sort(order.begin(), order.end(), [](const TensorView* a, const TensorView* b) {
    return *dtype_bits(a->dtype) > *dtype_bits(b->dtype);
  });

  SafetensorsParts out;
  std::unordered_set<std::string_view> names;
  uint64_t offset = 0;
  std::string text = "{";
  try {
    if (!metadata.empty())
      text += json(kMetadataKey).dump() + ":" + json(metadata).dump() + (order.empty() ? "" : ",");
    for (size_t i = 0; i < order.size(); ++i) {
      const TensorView& t = *order[i];
      DIFFUSE_CHECK(names.insert(t.name).second);
      const uint64_t end = offset + t.bytes.size();
      text += (i == 0 ? "" : ",") + json(t.name).dump() + ":{\"dtype\":\"" + t.dtype +
              "\",\"shape\":" + json(t.shape).dump() + ",\"data_offsets\":[" +
              std::to_string(offset) + "," + std::to_string(end) + "]}";
      offset = end;
      out.data.push_back(t.bytes);
    }
  } catch (const json::exception&) {
    throw Error(Exit::write,
                "a tensor name or metadata text is not valid UTF-8: cannot be written");
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > kMaxHeader)
    throw Error(Exit::write,
                "too many tensors for one safetensors file: its header exceeds 100 MB");

  const uint64_t length = text.size();
  out.head.resize(kPrefix + text.size());
  std::memcpy(out.head.data(), &length, kPrefix);
  std::memcpy(out.head.data() + kPrefix, text.data(), text.size());
  return out;
}

void refuse_pickle(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  if (!looks_like_pickle(path, bytes)) return;
  throw Error(Exit::checkpoint,
              path.string() +
                  " is a pickle or torch.save file, which can run any code when it is read, so it "
                  "never is. If you trust it, convert it in Python:\n"
                  "  import torch, safetensors.torch\n"
                  "  safetensors.torch.save_file(torch.load(\"" +
                  path.filename().string() +
                  "\", map_location=\"cpu\", weights_only=True), \"model.safetensors\")");
}

struct SafetensorsFile::Impl {
  void* map = nullptr;
  size_t size = 0;
  std::vector<TensorView> tensors;
  std::unordered_map<std::string, size_t> index;
  Metadata metadata;

  explicit Impl(const std::filesystem::path& path) {
    // Not blocking: opening a FIFO would wait for a writer for ever.
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
      throw Error(Exit::checkpoint, "cannot read " + path.string() + ": " + std::strerror(errno));
    struct stat info {};
    const bool regular = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
    size = regular ? static_cast<size_t>(info.st_size) : 0;
    int failure = 0;
    if (size > 0) {
      map = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
      if (map == MAP_FAILED) {
        map = nullptr;
        failure = errno;
      }
    }
    ::close(fd);
    if (!regular)
      throw Error(Exit::checkpoint, "cannot read " + path.string() + ": not a regular file");
    if (failure != 0)
      throw Error(Exit::checkpoint, "cannot read " + path.string() + ": " + std::strerror(failure));
    try {
      read(path, {static_cast<const std::byte*>(map), size});
    } catch (...) {
      unmap();
      throw;
    }
  }
  ~Impl() { unmap(); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  void unmap() {
    if (map != nullptr) ::munmap(map, size);
    map = nullptr;
  }

  void read(const std::filesystem::path& path, std::span<const std::byte> bytes) {
    refuse_pickle(path, bytes);
    if (bytes.size() < kPrefix)
      damaged(path, "it has " + std::to_string(bytes.size()) + " bytes, too few for a header");
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), kPrefix);
    if (length > kMaxHeader)
      damaged(path,
              "its header length is " + std::to_string(length) + " bytes, above the limit of " +
                  std::to_string(kMaxHeader));
    if (length > bytes.size() - kPrefix)
      damaged(path,
              "its header ends at byte " + std::to_string(length + kPrefix) + " but the file at " +
                  std::to_string(bytes.size()));
    const auto* text = reinterpret_cast<const char*>(bytes.data()) + kPrefix;
    if (length == 0 || text[0] != '{') damaged(path, "its header does not start with '{'");
    // The JSON library takes NUL for the end of its input and would not see what follows.
    if (const void* nul = std::memchr(text, 0, length))
      damaged(
          path,
          "its header has a NUL byte at " + std::to_string(static_cast<const char*>(nul) - text));

    HeaderReader header;
    if (!json::sax_parse(text, text + length, &header)) damaged(path, header.error);
    metadata = std::move(header.metadata);
    place(path, std::move(header.entries), bytes.subspan(kPrefix + length));
  }

  void place(const std::filesystem::path& path,
             std::vector<Entry> entries,
             std::span<const std::byte> data) {
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return std::tie(a.offsets, a.name) < std::tie(b.offsets, b.name);
    });
    uint64_t position = 0;
    for (Entry& e : entries) {
      const uint64_t begin = e.offsets[0], end = e.offsets[1];
      const std::string where = "tensor \"" + shorten(e.name) + "\": ";
      const auto bits = dtype_bits(e.dtype);
      if (!bits) damaged(path, where + "unknown dtype \"" + shorten(e.dtype) + "\"");
      if (begin > end) damaged(path, where + "its data ends before it begins");
      if (end > data.size())
        damaged(path,
                where + "its data ends at byte " + std::to_string(end) + " of " +
                    std::to_string(data.size()) + " (the file is cut short?)");
      if (begin < position) damaged(path, where + "its data overlaps another tensor's");
      if (begin > position)
        damaged(path,
                where + "there are unused bytes before its data (byte " + std::to_string(position) +
                    ")");
      const auto size_wanted = tensor_bytes(*bits, e.shape);
      if (!size_wanted) damaged(path, where + "its shape is too large or fills no whole bytes");
      if (*size_wanted != end - begin)
        damaged(path,
                where + "its data has " + std::to_string(end - begin) +
                    " bytes, but dtype and shape need " + std::to_string(*size_wanted));
      position = end;
      index.emplace(e.name, tensors.size());
      tensors.push_back({std::move(e.name),
                         std::move(e.dtype),
                         std::move(e.shape),
                         data.subspan(begin, end - begin)});
    }
    if (position != data.size())
      damaged(path, std::to_string(data.size() - position) + " bytes follow the last tensor");
  }
};

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : impl_(std::make_unique<Impl>(path)) {}
SafetensorsFile::~SafetensorsFile() = default;
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;

const std::vector<TensorView>& SafetensorsFile::tensors() const { return impl_->tensors; }

const TensorView* SafetensorsFile::find(const std::string& name) const {
  const auto found = impl_->index.find(name);
  return found == impl_->index.end() ? nullptr : &impl_->tensors[found->second];
}

const Metadata& SafetensorsFile::metadata() const { return impl_->metadata; }

}  // namespace diffuse
