// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

// The safetensors format (huggingface.co/docs/safetensors): 8 bytes of header length, a JSON
// header, data. No torch: tensors are bytes here. Pickle is never read.

namespace diffuse {

/// A tensor to write, or one found in a file.
struct TensorView {
  std::string name;
  std::string dtype;  // "F32", "F64", "BF16", "I64", "U8", ...
  std::vector<int64_t> shape;
  std::span<const std::byte>
      bytes;  // row-major, little-endian; in a file of others perhaps unaligned

  int64_t values() const;  // how many numbers the shape holds
};

using Metadata = std::map<std::string, std::string>;

/// The bytes of a safetensors file in pieces: the head, owned, and the tensors' memory, referenced.
struct SafetensorsParts {
  std::vector<std::byte> head;  // header length and header, a multiple of 8 bytes
  std::vector<std::span<const std::byte>> data;
  std::vector<std::span<const std::byte>> all() const;
};

/// Tensors come in the given order, except that wider dtypes come first: each is aligned to its
/// element. Names are unique, and `bytes` has the size that dtype and shape say.
SafetensorsParts safetensors_parts(const std::vector<TensorView>& tensors,
                                   const Metadata& metadata = {});

/// Throws Error{checkpoint} with the way to convert it when a file with this name and these first
/// bytes is a pickle or of torch.save: reading one can run any code.
void refuse_pickle(const std::filesystem::path& path, std::span<const std::byte> bytes);

/// A file mapped into memory; the header is checked against the file before anything is used:
/// sizes, dtypes, overlaps, holes, duplicate names, trailing bytes. Throws Error{checkpoint} with
/// path and reason.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  const std::vector<TensorView>& tensors() const;  // in file order; valid while this object lives
  const TensorView* find(const std::string& name) const;  // null when absent
  const Metadata& metadata() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace diffuse
