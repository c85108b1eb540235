// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/files.h"
#include "base/json.h"
#include "base/text.h"
#include "command.h"
#include "data/dataset.h"
#include "data/image.h"
#include "io/checkpoint.h"
#include "io/run_folder.h"
#include "io/safetensors.h"
#include "json_number.h"
#include "report/metrics.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr uint64_t kMaxJsonFile = uint64_t{16} << 20;

/// A JSON file written by us, or null when it is missing or damaged.
Json read_json(const fs::path& path) {
  if (!fs::is_regular_file(path)) return nullptr;
  return parse_json<Json>(read_file(path, Exit::checkpoint, kMaxJsonFile));
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (const int64_t n : shape) out += (out.size() > 1 ? ", " : "") + std::to_string(n);
  return out + "]";
}

Json inspect_safetensors(const fs::path& path) {
  const SafetensorsFile file(path);
  Json tensors = Json::object();
  int64_t values = 0;
  for (const TensorView& tensor : file.tensors()) {
    values += tensor.values();
    tensors[tensor.name] = tensor.dtype + " " + shape_text(tensor.shape);
  }
  Json out{{"kind", "safetensors"}, {"path", path.string()}, {"bytes", fs::file_size(path)}};
  out["tensors"] = file.tensors().size();
  out["values"] = values;
  if (!file.metadata().empty()) out["metadata"] = file.metadata();
  out["contents"] = tensors;
  return out;
}

Json inspect_checkpoint(const fs::path& path) {
  const std::vector<ManifestEntry> manifest = verify_checkpoint(path);
  Json out{{"kind", "checkpoint"},
           {"path", path.string()},
           {"hash", checkpoint_hash(path)},
           {"verified", true}};
  Json files = Json::object();
  for (const ManifestEntry& entry : manifest)
    files[entry.name] = std::to_string(entry.size) + " bytes";
  out["files"] = files;
  if (fs::exists(path / "model.safetensors")) {
    const SafetensorsFile model(path / "model.safetensors");
    int64_t parameters = 0;
    for (const TensorView& tensor : model.tensors()) parameters += tensor.values();
    out["parameters"] = parameters;
  }
  if (const Json state = read_json(path / "state.json"); state.is_object()) out["state"] = state;
  return out;
}

Json checkpoint_names(const fs::path& folder) {
  Json out = Json::array();
  for (const fs::path& checkpoint : list_checkpoints(folder))
    out.push_back(checkpoint.filename().string());
  return out;
}

Json inspect_run(const fs::path& path) {
  Json out{{"kind", "run"}, {"path", path.string()}};
  if (Json status = read_json(path / "status.json"); status.is_object()) {
    if (const auto known = read_status(path); known && known->state == "killed")
      status["state"] = "killed (it was running, and no process holds the folder)";
    out["status"] = status;
  }
  out["checkpoints"] = checkpoint_names(path / "checkpoints");
  if (fs::exists(path / "metrics.jsonl")) {
    const std::vector<MetricRow> rows = read_metrics(path / "metrics.jsonl");
    if (!rows.empty()) {
      Json last{{"step", rows.back().step}};
      for (const auto& [name, value] : rows.back().values) last[name] = number_or_null(value);
      out["last metrics"] = last;
    }
  }
  return out;
}

Json inspect_data(const fs::path& path) {
  DataOptions options;
  options.path = path.string();
  const DataScan scan = scan_folder(options, true);
  Json out{{"kind", "image folder"}, {"path", path.string()}, {"pictures", scan.entries.size()}};
  Json classes = Json::object();
  for (const std::string& name : scan.label_names) classes[name] = 0;
  for (const DataEntry& entry : scan.entries)
    if (entry.label >= 0) {
      Json& count = classes[scan.label_names[static_cast<size_t>(entry.label)]];
      count = count.get<int64_t>() + 1;
    }
  if (!classes.empty()) out["classes"] = classes;
  Json skipped = Json::object();
  for (const SkippedFile& file : scan.skipped) skipped[file.path] = file.reason;
  if (!skipped.empty()) out["skipped"] = skipped;
  return out;
}

/// None when the file is no picture.
std::optional<Json> inspect_picture(const fs::path& path, const std::vector<uint8_t>& bytes) {
  ImageHeader header;
  try {
    header = read_image_header(bytes);
  } catch (const ImageError& e) {
    const std::string type = picture_type(bytes);
    if (type.empty()) return std::nullopt;
    throw Error(Exit::data, path.string() + ": " + e.what());
  }
  Json out{{"kind", "picture"}, {"path", path.string()}, {"format", header.format}};
  out["height"] = header.height;
  out["width"] = header.width;
  out["channels"] = header.channels;
  out["bits"] = header.bits;
  Json text = Json::object();
  for (const auto& [key, value] : read_png_text(bytes)) {
    // Ours is a JSON object; what others wrote stays text.
    const Json parsed = parse_json<Json>(value);
    text[key] = parsed.is_object() ? parsed : Json(value);
  }
  if (!text.empty()) out["text"] = text;
  return out;
}

Json inspect_file(const fs::path& path) {
  const std::string extension = path.extension().string();
  if (extension == ".safetensors") return inspect_safetensors(path);
  constexpr uint64_t kMaxPicture = uint64_t{1} << 30;
  if (!fs::is_regular_file(path))
    throw Error(Exit::data, path.string() + " is neither a file nor a folder");
  const std::vector<uint8_t> bytes = fs::file_size(path) <= kMaxPicture
                                         ? read_bytes(path, kMaxPicture)
                                         : read_start(path, 4096, Exit::data);
  if (const std::optional<Json> picture = inspect_picture(path, bytes)) return *picture;
  refuse_pickle(path, std::as_bytes(std::span(bytes)));
  throw Error(
      Exit::data,
      path.string() +
          " is neither a picture nor a .safetensors file; inspect reads those, checkpoints, run "
          "folders and image folders");
}

Json inspect(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error))
    throw Error(Exit::data,
                error ? "cannot read " + path.string() + ": " + error.message()
                      : path.string() + " does not exist");
  if (!fs::is_directory(path, error)) return inspect_file(path);
  // Without its manifest it is still meant as one: the message says what is missing.
  if (fs::exists(path / "MANIFEST.json", error) || fs::exists(path / "model.safetensors", error))
    return inspect_checkpoint(path);
  if (fs::exists(path / "config.resolved.yaml", error) ||
      fs::is_directory(path / "checkpoints", error))
    return inspect_run(path);
  if (const Json checkpoints = checkpoint_names(path); !checkpoints.empty())
    return {{"kind", "checkpoints"}, {"path", path.string()}, {"checkpoints", checkpoints}};
  return inspect_data(path);
}

/// One "name: value" a line, nested values indented.
void append_text(const Json& value, size_t depth, std::string& out) {
  for (const auto& [name, item] : value.items()) {
    out += std::string(2 * depth, ' ') + (value.is_array() ? "-" : printable(name, true) + ":");
    if (item.is_structured()) {
      out += item.empty() ? " none\n" : "\n";
      append_text(item, depth + 1, out);
    } else if (item.is_string()) {
      out += " " + printable(item.get<std::string>(), true) + "\n";
    } else {
      out += " " + item.dump() + "\n";
    }
  }
}

}  // namespace

Run add_inspect(CLI::App& app, const Context&) {
  app.description(
      "Show what a checkpoint, run folder, .safetensors file, picture or image folder holds.");
  app.footer(
      "  diffuse inspect runs/digits-001\n"
      "  diffuse inspect runs/digits-001/checkpoints/step-000002000\n"
      "  diffuse inspect samples.png --json             how a picture was made");
  struct Flags {
    std::string path;
    bool json = false;
  };
  const auto flags = std::make_shared<Flags>();
  app.add_option("PATH", flags->path, "what to look at")->required()->check(not_empty());
  app.add_flag("--json", flags->json, "JSON on stdout");
  return [flags] {
    const Json found = inspect(flags->path);
    if (flags->json) {
      print(found.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
    } else {
      std::string text;
      append_text(found, 0, text);
      print(text);
    }
    return 0;
  };
}

}  // namespace diffuse
