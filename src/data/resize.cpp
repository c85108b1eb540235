// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "base/error.h"
#include "data/image.h"

// Convolution with a filter that is stretched by the reduction factor, so that nothing aliases;
// first along rows, then along columns, each rounded to 8 bits. Weights and sums are fixed point,
// as in Pillow, whose results are the reference of FID's and of most training pipelines: the same
// integers come out.

namespace diffuse {
namespace {

constexpr int kPrecision =
    22;  // 32 bits less 8 of the sample and 2 for the overshoot of a filter's lobes

struct Filter {
  double support;
  double (*value)(double);
};

double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

double triangle(double x) { return std::max(0.0, 1.0 - std::abs(x)); }

/// Keys 1981, "Cubic convolution interpolation for digital image processing", with a = -1/2.
double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

double sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= std::numbers::pi;
  return std::sin(x) / x;
}

double lanczos3(double x) { return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0; }

Filter filter_of(ResizeFilter filter) {
  switch (filter) {
    case ResizeFilter::area:
      return {0.5, box};
    case ResizeFilter::bilinear:
      return {1.0, triangle};
    case ResizeFilter::bicubic:
      return {2.0, cubic};
    case ResizeFilter::lanczos:
      return {3.0, lanczos3};
  }
  DIFFUSE_CHECK(false);
  return {};
}

/// The weights of output i are weights[i * stride ...][count[i]], on inputs from first[i] on.
struct Weights {
  size_t stride = 0;
  std::vector<int64_t> first;
  std::vector<int64_t> count;
  std::vector<int32_t> weights;
};

Weights make_weights(int64_t in, int64_t out, const Filter& filter) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double stretch = std::max(scale, 1.0);
  const double support = filter.support * stretch;
  Weights w;
  w.stride = static_cast<size_t>(std::ceil(support)) * 2 + 1;
  w.weights.assign(w.stride * static_cast<size_t>(out), 0);
  std::vector<double> row(w.stride);
  for (int64_t i = 0; i < out; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    // Truncation, not floor: a window that starts left of the picture starts at 0.
    const int64_t first = std::max<int64_t>(static_cast<int64_t>(center - support + 0.5), 0);
    const int64_t last = std::min<int64_t>(static_cast<int64_t>(center + support + 0.5), in);
    double sum = 0.0;
    for (int64_t k = 0; k < last - first; ++k) {
      // The division by `stretch` is a multiplication by its inverse, as it rounds differently.
      const double x = (static_cast<double>(k + first) - center + 0.5) * (1.0 / stretch);
      sum += row[static_cast<size_t>(k)] = filter.value(x);
    }
    for (int64_t k = 0; k < last - first; ++k) {
      double value = row[static_cast<size_t>(k)];
      if (sum != 0.0) value /= sum;
      const double fixed = value * (1 << kPrecision);
      w.weights[static_cast<size_t>(i) * w.stride + static_cast<size_t>(k)] =
          static_cast<int32_t>(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
    }
    w.first.push_back(first);
    w.count.push_back(last - first);
  }
  return w;
}

uint8_t to_byte(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kPrecision, 0, 255)); }

template <int Channels>
void resize_rows(const Image& in, const Weights& w, Image& out) {
  for (int64_t y = 0; y < in.height; ++y) {
    const uint8_t* row = in.data.data() + y * in.width * Channels;
    uint8_t* to = out.data.data() + y * out.width * Channels;
    for (int64_t x = 0; x < out.width; ++x) {
      const int32_t* weights = w.weights.data() + static_cast<size_t>(x) * w.stride;
      const uint8_t* from = row + w.first[static_cast<size_t>(x)] * Channels;
      int32_t sum[Channels];
      std::fill_n(sum, Channels, 1 << (kPrecision - 1));
      for (int64_t k = 0; k < w.count[static_cast<size_t>(x)]; ++k)
        for (int c = 0; c < Channels; ++c) sum[c] += from[k * Channels + c] * weights[k];
      for (int c = 0; c < Channels; ++c) *to++ = to_byte(sum[c]);
    }
  }
}

void resize_columns(const Image& in, const Weights& w, Image& out) {
  const int64_t row = in.width * in.channels;
  std::vector<int32_t> sums(static_cast<size_t>(row));
  for (int64_t y = 0; y < out.height; ++y) {
    std::fill(sums.begin(), sums.end(), 1 << (kPrecision - 1));
    const int32_t* weights = w.weights.data() + static_cast<size_t>(y) * w.stride;
    const uint8_t* from = in.data.data() + w.first[static_cast<size_t>(y)] * row;
    for (int64_t k = 0; k < w.count[static_cast<size_t>(y)]; ++k, from += row)
      for (int64_t i = 0; i < row; ++i) sums[static_cast<size_t>(i)] += from[i] * weights[k];
    std::transform(sums.begin(), sums.end(), out.data.data() + y * row, to_byte);
  }
}

Image blank(int64_t height, int64_t width, int64_t channels) {
  return {height,
          width,
          channels,
          std::vector<uint8_t>(static_cast<size_t>(height * width * channels))};
}

}  // namespace

Image resize_image(const Image& image, int64_t height, int64_t width, ResizeFilter filter) {
  DIFFUSE_CHECK(image.height >= 1 && image.width >= 1 && height >= 1 && width >= 1);
  DIFFUSE_CHECK(image.channels == 1 || image.channels == 3);
  const Filter f = filter_of(filter);
  Image out = image;
  if (width != out.width) {
    Image wide = blank(out.height, width, out.channels);
    const Weights w = make_weights(out.width, width, f);
    out.channels == 1 ? resize_rows<1>(out, w, wide) : resize_rows<3>(out, w, wide);
    out = std::move(wide);
  }
  if (height != out.height) {
    Image tall = blank(height, out.width, out.channels);
    resize_columns(out, make_weights(out.height, height, f), tall);
    out = std::move(tall);
  }
  return out;
}

Image crop_image(const Image& image, int64_t top, int64_t left, int64_t height, int64_t width) {
  DIFFUSE_CHECK(top >= 0 && left >= 0 && height >= 1 && width >= 1);
  DIFFUSE_CHECK(top + height <= image.height && left + width <= image.width);
  Image out = blank(height, width, image.channels);
  const int64_t row = width * image.channels;
  for (int64_t y = 0; y < height; ++y)
    std::copy_n(image.data.data() + ((top + y) * image.width + left) * image.channels,
                row,
                out.data.data() + y * row);
  return out;
}

Image fit_image(Image image, const DataOptions& options) {
  const int64_t height = options.height(), width = options.width();
  if (image.height == height && image.width == width) return image;
  // Compared crosswise, in integers: image.width / image.height against width / height.
  const bool too_wide = image.width * height > image.height * width;
  // a * b / c, rounded half up.
  const auto scaled = [](int64_t a, int64_t b, int64_t c) {
    return std::max<int64_t>((2 * a * b + c) / (2 * c), 1);
  };
  switch (options.crop) {
    case Crop::none:
      break;
    case Crop::center: {
      const int64_t window_height =
          too_wide ? image.height : std::min(scaled(image.width, height, width), image.height);
      const int64_t window_width =
          too_wide ? std::min(scaled(image.height, width, height), image.width) : image.width;
      image = crop_image(image,
                         (image.height - window_height) / 2,
                         (image.width - window_width) / 2,
                         window_height,
                         window_width);
      break;
    }
    case Crop::random: {
      const int64_t cover_height =
          too_wide ? height : std::max(scaled(image.height, width, image.width), height);
      const int64_t cover_width =
          too_wide ? std::max(scaled(image.width, height, image.height), width) : width;
      if (cover_width > options.max_pixels / cover_height)
        throw ImageError("too elongated: resized for a random crop it would be " +
                         std::to_string(cover_width) + "x" + std::to_string(cover_height) +
                         " pixels, data.max_pixels is " + std::to_string(options.max_pixels));
      return resize_image(image, cover_height, cover_width, options.resize);
    }
  }
  return resize_image(image, height, width, options.resize);
}

}  // namespace diffuse
