// cachette tokenize: text to token ids and back.

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/flags.h"
#include "cli/input.h"
#include "cli/print_json.h"
#include "engine/inspect.h"
#include "engine/load_tokenizer.h"

namespace cachette::cli {
namespace {

struct TokenizeArguments {
  EngineOptions engine;
  std::vector<std::string> files;
  std::string prompt;
  std::string standard_input;  // "-" when it was named
  std::string ids_to_decode;
  bool has_prompt = false, has_ids = false;
  bool is_ids = false, is_json = false, is_count = false;
  bool is_bare = false, is_plain = false;
};

// A token's bytes as a line of text can show them: control characters and incomplete UTF-8 as JSON writes them.
std::string Shown(std::string_view bytes) {
  return nlohmann::json(std::string(bytes)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Result<std::vector<int32_t>> IdsOf(std::string text, int32_t vocab_size) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c == ' ' || c == '\n' || c == '\t'; }, ',');
  text.erase(std::unique(text.begin(), text.end(), [](char a, char b) { return a == ',' && b == ','; }), text.end());
  if (text.ends_with(',')) text.pop_back();
  CACHETTE_TRY(const std::vector<int64_t> numbers, ParseNumbers("--decode", text));
  for (const int64_t id : numbers)
    if (id >= vocab_size)
      return Fail(Error::kInvalidArgument, fmt::format("token {} is outside the vocabulary of {}", id, vocab_size));
  return std::vector<int32_t>(numbers.begin(), numbers.end());
}

Result<int> Decode(const TokenizeArguments& arguments, const Tokenizer& tokenizer) {
  CACHETTE_TRY(const std::vector<int32_t> ids, IdsOf(arguments.ids_to_decode, tokenizer.vocab_size()));
  const std::string text = tokenizer.Decode(ids, /*skip_special=*/false);
  if (arguments.is_json) {
    PrintJson({{"text", text}});
  } else {
    std::fwrite(text.data(), 1, text.size(), stdout);
    if (!text.ends_with('\n')) std::fputc('\n', stdout);
  }
  return 0;
}

Result<int> Encode(const TokenizeArguments& arguments, const Tokenizer& tokenizer) {
  std::vector<std::string> files = arguments.files;
  std::string text;
  if (arguments.prompt == "-") files.push_back("-");
  if (arguments.has_prompt && arguments.prompt != "-") {
    if (!files.empty()) return Fail(Error::kInvalidArgument, "give the text with -p or with -f, not both");
    text = arguments.prompt;
    CACHETTE_TRY(CheckUtf8(text, "the prompt"));
  } else if (files.empty()) {
    return Fail(Error::kInvalidArgument, "no text; give it with -p, with -f, or name standard input with '-f -'");
  } else {
    CACHETTE_TRY(text, ReadTexts(files));
  }
  const EncodeOptions options{.add_special = !arguments.is_bare, .parse_special = !arguments.is_plain};
  CACHETTE_TRY(const std::vector<int32_t> ids, tokenizer.Encode(text, options));
  if (arguments.is_json) {
    nlohmann::ordered_json pieces = nlohmann::ordered_json::array();
    for (const int32_t id : ids) pieces.push_back(std::string(tokenizer.TokenBytes(id)));
    PrintJson({{"count", ids.size()}, {"ids", ids}, {"pieces", pieces}}, JsonStyle::kOneLine);
  } else if (arguments.is_count) {
    fmt::print("{}\n", ids.size());
  } else if (arguments.is_ids) {
    fmt::print("{}\n", fmt::join(ids, " "));
  } else {
    for (const int32_t id : ids) fmt::print("{}\t{}\n", id, Shown(tokenizer.TokenBytes(id)));
  }
  return 0;
}

}  // namespace

void AddTokenize(CLI::App& root, Command& chosen) {
  const auto arguments = std::make_shared<TokenizeArguments>();
  CLI::App* app = root.add_subcommand("tokenize", "turn text into token ids, or ids into text");
  CLI::Option* prompt = app->add_option("-p,--prompt", arguments->prompt, "text; '-' for standard input");
  prompt->type_name("TEXT");
  app->add_option("-f,--file", arguments->files, "file to read, '-' for standard input")
      ->type_name("FILE")
      ->allow_extra_args(false);
  app->add_option("INPUT", arguments->standard_input, "'-': the text is read from standard input");
  CLI::Option* decode = app->add_option("--decode", arguments->ids_to_decode, "ids to turn into text: 12,345,6");
  decode->type_name("IDS");
  app->add_flag("--ids", arguments->is_ids, "print the ids on one line");
  app->add_flag("--count", arguments->is_count, "print the number of tokens");
  app->add_flag("--json", arguments->is_json, "print one JSON object with count, ids and pieces");
  app->add_flag("--no-special", arguments->is_bare, "without the tokens the model expects around a text");
  app->add_flag("--plain", arguments->is_plain, "control tokens written in the text stay text");
  AddFlags(*app, arguments->engine, "Options", {{"model", "-m"}}, {"model"});
  app->callback([arguments, prompt, decode, &chosen] {
    if (const std::string& input = arguments->standard_input; !input.empty() && input != "-")
      RefuseUsage(fmt::format("unexpected argument '{}'; text is given with -p or -f", input));
    if (!arguments->standard_input.empty()) arguments->files.push_back("-");
    arguments->has_prompt = prompt->count() > 0;
    arguments->has_ids = decode->count() > 0;
    chosen = [arguments]() -> Result<int> {
      CACHETTE_TRY(const ModelFile file, OpenModelFile(arguments->engine));
      CACHETTE_TRY(const Tokenizer tokenizer, LoadTokenizer(*file.checkpoint));
      return arguments->has_ids ? Decode(*arguments, tokenizer) : Encode(*arguments, tokenizer);
    };
  });
}

}  // namespace cachette::cli
