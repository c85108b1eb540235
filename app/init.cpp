// SPDX-License-Identifier: MIT
#include <filesystem>
#include <memory>

#include "base/files.h"
#include "base/log.h"
#include "command.h"
#include "config/schema.h"
#include "presets.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;

struct InitFlags {
  std::string folder = ".";
  std::string preset = "tiny";
  std::string data;
};

std::string_view preset_text(const std::string& name) {
  for (int i = 0; i < kPresetCount; ++i)
    if (kPresets[i].name == name) return kPresets[i].text;
  DIFFUSE_CHECK(false);
  return {};
}

/// The folder's own name, if new run folders can be named after it.
std::string run_name(const fs::path& folder, const std::string& otherwise) {
  fs::path path = fs::absolute(folder).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();  // "my-run/"
  const std::string name = path.filename().string();
  return name.empty() || name.starts_with('.') ? otherwise : name;
}

int run_init(const InitFlags& flags) {
  const fs::path config = fs::path(flags.folder) / "config.yaml";
  const fs::path schema = fs::path(flags.folder) / "diffuse.schema.json";
  for (const fs::path& path : {config, schema})
    if (fs::exists(path))
      throw Error(Exit::run_folder,
                  path.string() + " exists and is not overwritten; choose another folder");
  LoadedConfig loaded = load_config_text(preset_text(flags.preset), flags.preset, ".", {});
  loaded.config.run.name = run_name(flags.folder, loaded.config.run.name);
  const bool points = loaded.config.data.are_points();
  if (points && !flags.data.empty())
    throw Error(Exit::usage,
                "--data: the preset '" + flags.preset + "' makes its points, it reads no pictures");
  const std::string data = flags.data.empty() ? "data" : flags.data;
  if (!points) loaded.config.data.path = data;  // as given: relative to the new config's folder
  const std::string text =
      "# yaml-language-server: $schema=./diffuse.schema.json\n"
      "# Every key with its help. Made from the preset '" +
      flags.preset + "'; a key that is left out has its default.\n\n" +
      write_config(loaded.config, true);
  load_config_text(text, config.string(), flags.folder, {});  // what a config cannot say is refused
  std::error_code error;
  fs::create_directories(flags.folder, error);
  if (error)
    throw Error(Exit::run_folder, "cannot create folder " + flags.folder + ": " + error.message());
  write_file_atomic(schema, config_schema());
  write_file_atomic(config, text);
  log::info("wrote " + config.string() + " and " + schema.string());
  const std::string pictures = (fs::path(flags.folder) / data).lexically_normal().string();
  log::info("next: " +
            (points
                 ? "diffuse train "
                 : "put pictures into " + pictures + " or change data.path, then: diffuse check ") +
            config.string());
  return 0;
}

}  // namespace

Run add_init(CLI::App& app, const Context&) {
  app.description("Write a commented config.yaml and its schema for editors.");
  app.footer(
      "  diffuse init my-model\n"
      "  diffuse init my-model --preset cifar10-ddpm --data /data/cifar10");
  const auto flags = std::make_shared<InitFlags>();
  std::vector<std::string> names;
  std::string list;
  for (int i = 0; i < kPresetCount; ++i) {
    names.emplace_back(kPresets[i].name);
    list += (list.empty() ? "" : ", ") + names.back();
  }
  app.add_option("DIR", flags->folder, "folder, made if missing")
      ->capture_default_str()
      ->check(not_empty());
  app.add_option("--preset", flags->preset, "what the values start from: " + list)
      ->type_name("PRESET")
      ->check(one_of(names))
      ->capture_default_str();
  app.add_option("--data", flags->data, "data.path of the config, relative to DIR [default: data]")
      ->type_name("DIR")
      ->check(not_empty());
  return [flags] { return run_init(*flags); };
}

}  // namespace diffuse
