// SPDX-License-Identifier: MIT
#include <filesystem>
#include <memory>

#include "command.h"

namespace diffuse {
namespace {

struct BenchFlags {
  BenchRequest request;
  std::string config;
  std::vector<std::string> set;
  std::string format = "text";
};

}  // namespace

Run add_bench(CLI::App& app, const Context& context) {
  app.description("Measure the speed of training, of sampling, of the kernels or of the data.");
  app.footer(
      "  diffuse bench train configs/digits.yaml\n"
      "  diffuse bench train configs/digits.yaml --set runtime.fused=false   without our kernels\n"
      "  diffuse bench sample configs/digits.yaml --set sample.steps=100 -n 64\n"
      "  diffuse bench kernels configs/cifar10-ddpm.yaml --set train.batch=16\n"
      "  diffuse bench data my-run/config.yaml");
  const auto flags = std::make_shared<BenchFlags>();
  BenchRequest& r = flags->request;
  const std::vector<std::string> parts{"train", "sample", "kernels", "data"};
  app.add_option(
         "WHAT",
         r.what,
         "train: whole steps on random pictures; sample: pictures of random weights; "
         "kernels: each beside LibTorch's own operators; data: the config's folder, scanned, "
         "decoded, in batches")
      ->type_name("train|sample|kernels|data")
      ->required()
      ->check(one_of(parts));
  app.add_option("CONFIG", flags->config, "config file (YAML)")->required()->check(not_empty());
  add_set_option(app, flags->set);
  app.add_option(
         "--blocks",
         r.blocks,
         "measurements; their median and spread are reported (kernels: tenths of a second each)")
      ->type_name("N")
      ->check(between(1, 1000))
      ->capture_default_str();
  app.add_option(
         "--steps", r.steps, "steps of a block of training [default: as many as take five seconds]")
      ->type_name("N")
      ->check(between(1, 1'000'000));
  app.add_option("-n,--count", r.count, "pictures of a block of sampling, drawn at once")
      ->type_name("N")
      ->check(between(1, 100'000))
      ->capture_default_str();
  app.add_flag("--wait",
               r.wait,
               "read a line from stdin before each block and print it as a line of JSON, for "
               "measuring two programs in turns");
  app.add_option("--format", flags->format, "of the result on stdout")
      ->type_name("text|json")
      ->check(one_of({"text", "json"}))
      ->capture_default_str();
  app.add_flag_callback(
      "--json", [flags] { flags->format = "json"; }, "the same as --format json");
  return [flags, &context] {
    BenchRequest& request = flags->request;
    request.global = context.global;
    request.json = flags->format == "json";
    request.git = build_commit();
    request.config_path = flags->config;
    request.loaded = load_config_text(read_config(flags->config),
                                      flags->config,
                                      std::filesystem::absolute(flags->config).parent_path(),
                                      set_overrides(flags->set));
    print_warnings(request.loaded, context);
    Signals signals;
    request.signals = &signals;
    return open_core().bench(request);
  };
}

}  // namespace diffuse
