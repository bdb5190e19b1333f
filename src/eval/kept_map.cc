#include "eval/kept_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <numeric>

namespace cachette {
namespace {

// Shares are drawn in steps: an SVG holds one path per step instead of one rectangle per cell.
constexpr std::array<const char*, 6> kColours = {"#f4f6f8", "#c6dbef", "#9ecae1", "#6baed6", "#3182bd", "#08306b"};

size_t StepOf(float share) {
  if (share <= 0.0f) return 0;
  return 1 + static_cast<size_t>(std::min(3.0f, std::floor(share * 4.0f))) + (share >= 1.0f ? 1 : 0);
}

std::string Escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

double MeanOf(const KeptMap& map, int first_row, int end_row, int first_column, int end_column) {
  double sum = 0.0;
  for (int row = first_row; row < end_row; ++row)
    for (int column = first_column; column < end_column; ++column) sum += static_cast<double>(map.KeptAt(row, column));
  const int count = (end_row - first_row) * (end_column - first_column);
  return count > 0 ? sum / count : 0.0;
}

}  // namespace

KeptMap MapOfKept(const SequenceCache& cache, int max_columns) {
  KeptMap map;
  map.num_layers = cache.shape().num_layers;
  map.num_kv_heads = cache.shape().num_kv_heads;
  map.num_tokens = cache.num_tokens();
  map.num_columns = static_cast<int>(std::min<int64_t>(max_columns, map.num_tokens));
  const int num_rows = map.num_layers * map.num_kv_heads;
  map.kept.assign(static_cast<size_t>(num_rows) * static_cast<size_t>(map.num_columns), 0.0f);
  std::vector<int64_t> width(static_cast<size_t>(map.num_columns));  // tokens of a column
  const auto column_of = [&](int64_t position) {
    return static_cast<size_t>(position * map.num_columns / map.num_tokens);
  };
  for (int64_t position = 0; position < map.num_tokens; ++position) ++width[column_of(position)];
  for (int row = 0; row < num_rows; ++row) {
    const HeadStream& stream = cache.stream(row / map.num_kv_heads, row % map.num_kv_heads);
    map.live_entries.push_back(stream.num_live());
    float* const shares = map.kept.data() + static_cast<size_t>(row) * static_cast<size_t>(map.num_columns);
    for (int64_t slot = 0; slot < stream.num_slots(); ++slot)
      if (stream.IsLive(slot)) shares[column_of(stream.positions()[static_cast<size_t>(slot)])] += 1.0f;
    for (size_t column = 0; column < width.size(); ++column) shares[column] /= static_cast<float>(width[column]);
  }
  return map;
}

std::string KeptMapSvg(const KeptMap& map, const std::string& title) {
  constexpr int kLeft = 64, kTop = 48, kWidth = 1024, kBottom = 64;
  const int num_rows = map.num_layers * map.num_kv_heads;
  const int row_height = std::clamp(720 / std::max(num_rows, 1), 2, 16);
  const int height = num_rows * row_height;
  std::string svg;
  auto out = std::back_inserter(svg);
  fmt::format_to(out,
                 "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
                 "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n"
                 "<text x=\"{2}\" y=\"28\" font-size=\"15\">{3}</text>\n",
                 kLeft + kWidth + 24, kTop + height + kBottom, kLeft, Escaped(title));
  fmt::format_to(out, "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\" stroke=\"#888\"/>\n", kLeft, kTop,
                 kWidth, height, kColours[0]);
  const auto x_of = [&](int64_t column) {
    return kLeft + static_cast<double>(column) * kWidth / std::max(map.num_columns, 1);
  };
  for (size_t step = 1; step < kColours.size(); ++step) {
    fmt::format_to(out, "<path fill=\"{}\" d=\"", kColours[step]);
    for (int row = 0; row < num_rows; ++row)
      for (int column = 0; column < map.num_columns;) {
        int end = column + 1;
        if (StepOf(map.KeptAt(row, column)) == step) {
          while (end < map.num_columns && StepOf(map.KeptAt(row, end)) == step) ++end;
          fmt::format_to(out, "M{:.1f} {}h{:.1f}v{}h{:.1f}z", x_of(column), kTop + row * row_height,
                         x_of(end) - x_of(column), row_height, x_of(column) - x_of(end));
        }
        column = end;
      }
    svg += "\"/>\n";
  }
  // A label for every few layers, and for every tenth of the text.
  const int label_every = std::max(1, (14 + row_height * map.num_kv_heads - 1) / (row_height * map.num_kv_heads));
  for (int layer = 0; layer < map.num_layers; layer += label_every)
    fmt::format_to(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">layer {}</text>\n", kLeft - 6,
                   kTop + layer * map.num_kv_heads * row_height + 10, layer);
  for (int tenth = 0; tenth <= 10; tenth += 2)
    fmt::format_to(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", kLeft + kWidth * tenth / 10,
                   kTop + height + 16, map.num_tokens * tenth / 10);
  fmt::format_to(out, "<text x=\"{}\" y=\"{}\">token position; rows: layers, and in each its KV heads</text>\n", kLeft,
                 kTop + height + 40);
  constexpr std::array<const char*, 6> kMeanings = {"none",      "below 1/4", "below 1/2",
                                                    "below 3/4", "below 1",   "all kept"};
  for (size_t step = 0; step < kColours.size(); ++step) {
    const int x = kLeft + 420 + static_cast<int>(step) * 100;
    fmt::format_to(out,
                   "<rect x=\"{}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{}\" stroke=\"#888\"/>"
                   "<text x=\"{}\" y=\"{}\">{}</text>\n",
                   x, kTop + height + 30, kColours[step], x + 17, kTop + height + 40, kMeanings[step]);
  }
  svg += "</svg>\n";
  return svg;
}

std::string KeptMapText(const KeptMap& map) {
  const int num_rows = map.num_layers * map.num_kv_heads;
  if (num_rows == 0 || map.num_tokens == 0) return "kept       nothing yet";
  const int64_t total = std::accumulate(map.live_entries.begin(), map.live_entries.end(), int64_t{0});
  std::vector<double> by_layer;
  for (int layer = 0; layer < map.num_layers; ++layer) {
    const auto begin = map.live_entries.begin() + layer * map.num_kv_heads;
    by_layer.push_back(static_cast<double>(std::accumulate(begin, begin + map.num_kv_heads, int64_t{0})) /
                       static_cast<double>(map.num_kv_heads * map.num_tokens));
  }
  const auto [least, most] = std::minmax_element(by_layer.begin(), by_layer.end());
  std::string text = fmt::format(
      "kept       {} of {} entries ({:.1f} %); by layer {:.1f} % (layer {}) to {:.1f} % (layer {})\nby tenths  ", total,
      num_rows * map.num_tokens,
      100.0 * static_cast<double>(total) / (static_cast<double>(num_rows) * static_cast<double>(map.num_tokens)),
      100.0 * *least, least - by_layer.begin(), 100.0 * *most, most - by_layer.begin());
  const int parts = std::min(10, map.num_columns);
  for (int part = 0; part < parts; ++part)
    text += fmt::format(
        "{}{:.0f} %", part == 0 ? "" : ", ",
        100.0 * MeanOf(map, 0, num_rows, map.num_columns * part / parts, map.num_columns * (part + 1) / parts));
  return text + " of the text, first to last";
}

}  // namespace cachette
