// SPDX-License-Identifier: MIT
#include "data/options.h"

namespace diffuse {

std::vector<int64_t> DataOptions::shape() const {
  if (are_points()) return {2, 1, 1};
  return {channels, height(), width()};
}

void DataOptions::fields(Fields& f) {
  f.one_of(source,
           "source",
           {{DataSource::images, "images"}, {DataSource::points, "points"}},
           "pictures of a folder, or points in the plane, made as they are needed; all keys but "
           "`points` are about pictures")
      .also_called({"kind", "modality"});
  f.choice(points, "points", "the distribution of the points, with source: points")
      .also_called({"distribution", "toy", "toy_data"});
  // The pictures decide the result, not where they lie: a resume compares their fingerprint.
  f(path, "path", "folder with the pictures, searched recursively")
      .path()
      .must_be_set_unless("source", "points")
      .free_on_resume()
      .also_called({"data_dir", "dataset", "train_data_dir", "root", "folder", "dir", "dataroot"});
  f.one_of(labels,
           "labels",
           {{Labels::none, "none"}, {Labels::subfolder, "subfolder"}},
           "subfolder: each folder directly under `path` is a class; none: no classes")
      .also_called({"classes", "class_labels"});
  f(size, "size", "height and width that the network sees; one number for square pictures")
      .at_least(1)
      .at_most(8192)
      .items(1, 2)
      .or_scalar()
      .also_called({"image_size", "resolution", "img_size", "imgsz", "sample_size", "input_size"});
  f(channels, "channels", "1: grey, 3: RGB")
      .at_least(1)
      .at_most(3)
      .also_called({"in_channels", "image_channels", "num_channels"});
  f.one_of(resize,
           "resize",
           {{ResizeFilter::area, "area"},
            {ResizeFilter::bilinear, "bilinear"},
            {ResizeFilter::bicubic, "bicubic"},
            {ResizeFilter::lanczos, "lanczos"}},
           "filter for making a picture smaller or larger")
      .also_called({"interpolation", "resample", "filter"});
  f.one_of(
       crop,
       "crop",
       {{Crop::center, "center"}, {Crop::random, "random"}, {Crop::none, "none"}},
       "part of a picture of another shape: the middle, a random window, or all of it, stretched")
      .also_called({"center_crop", "random_crop"});
  f(flip, "flip", "mirror each picture left to right half of the time")
      .also_called({"random_flip",
                    "horizontal_flip",
                    "hflip",
                    "augment_horizontal_flip",
                    "mirror",
                    "fliplr"});
  f(holdout,
    "holdout",
    "share of the pictures that is kept from training, for validate and diffuse evaluate; which "
    "ones depends on each one's path alone")
      .at_least(0)
      .below(1)
      .also_called({"val_split", "validation_split", "val_fraction", "test_size", "test_split"});
  f(exif_orientation, "exif_orientation", "turn pictures the way viewers show them")
      .also_called({"exif"});
  f.one_of(
      alpha,
      "alpha",
      {{AlphaPolicy::white, "white"},
       {AlphaPolicy::black, "black"},
       {AlphaPolicy::drop, "drop"},
       {AlphaPolicy::error, "error"}},
      "transparent pictures: blend on white or black, drop the channel, or treat as a bad file");
  f.one_of(on_bad_image,
           "on_bad_image",
           {{BadImage::skip, "skip"}, {BadImage::fail, "fail"}},
           "a file that cannot be used: leave it out and list it, or stop");
  f(max_bad_fraction, "max_bad_fraction", "stop when a larger share of the files is bad")
      .at_least(0)
      .at_most(1);
  f(max_pixels, "max_pixels", "larger pictures are refused before they are decoded")
      .at_least(1)
      .at_most(1 << 30);
  f(max_file_bytes, "max_file_bytes", "larger files are refused before they are read").at_least(1);
  f(workers, "workers", "threads that decode; auto: one a core, at most 8")
      .at_least(1)
      .at_most(1024)
      .free_on_resume()
      .also_called({"num_workers", "dataloader_num_workers", "loader_workers"});
  f.one_of(
       cache,
       "cache",
       {{CachePolicy::automatic, "auto"}, {CachePolicy::ram, "ram"}, {CachePolicy::none, "none"}},
       "keep decoded pictures in memory; auto: when they fit cache_mb")
      .free_on_resume();
  f(cache_mb, "cache_mb", "MiB of decoded pictures that cache: auto may take")
      .at_least(0)
      .at_most(1 << 30)
      .free_on_resume();
  f(queue_batches, "queue_batches", "batches prepared ahead")
      .at_least(1)
      .at_most(1024)
      .free_on_resume()
      .also_called({"prefetch_factor", "prefetch"});
}

}  // namespace diffuse
