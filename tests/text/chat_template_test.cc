#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>

#include "recorded.h"

namespace cachette {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// strftime_now prints local time; the recordings were made in UTC.
class ChatTemplateTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    setenv("TZ", "UTC", 1);
    tzset();
  }
};

RenderOptions Recorded() { return {.bos_token = "<s>", .eos_token = "</s>", .now = 1700000000}; }

void ExpectAsRecorded(const nlohmann::ordered_json& row, const std::string& source, const std::string& messages) {
  RenderOptions options = Recorded();
  options.add_generation_prompt = row.value("add_generation_prompt", true);
  if (row.contains("variables")) options.variables_json = row["variables"].dump();
  const Result<ChatTemplate> parsed = ChatTemplate::Parse(source);
  if (!parsed.ok() && row.contains("error")) return;
  ASSERT_TRUE(parsed.ok()) << row["template"] << ": " << parsed.failure().message;
  const Result<MarkedText> text = parsed->RenderJson(messages, options);
  if (row.contains("text")) {
    ASSERT_TRUE(text.ok()) << row["template"] << ": " << text.failure().message;
    EXPECT_EQ(text->text, row["text"].get<std::string>()) << row["template"];
  } else {
    EXPECT_FALSE(text.ok()) << row["template"] << ", Jinja says " << row["error"];
  }
}

TEST_F(ChatTemplateTest, FamiliesRenderAsJinjaDoes) {
  const auto rows = RecordedJson("templates.json");
  ASSERT_GE(rows.size(), 200u);
  for (const auto& row : rows) {
    ExpectAsRecorded(row, ReadRecorded("templates/" + row["template"].get<std::string>()), row["messages"].dump());
  }
}

TEST_F(ChatTemplateTest, EveryConstructRendersAsJinjaDoes) {
  const auto rows = RecordedJson("snippets.json");
  ASSERT_GE(rows.size(), 90u);
  for (const auto& row : rows) ExpectAsRecorded(row, row["template"], R"([{"role": "user", "content": "Hi"}])");
}

TEST_F(ChatTemplateTest, MessagesAsStructsRenderLikeJson) {
  const Result<ChatTemplate> parsed = ChatTemplate::Parse(ReadRecorded("templates/smollm2.jinja"));
  const std::vector<ChatMessage> messages = {{"user", "Hi \"there\"\n"}, {"assistant", "Yes"}};
  EXPECT_EQ(
      parsed->Render(messages)->text,
      "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
      "<|im_start|>user\nHi \"there\"\n<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n<|im_start|>assistant\n");
  const Result<MarkedText> as_json = parsed->RenderJson(R"([{"role": "user", "content": "Hi \"there\"\n"},
                                                            {"role": "assistant", "content": "Yes"}])");
  EXPECT_EQ(parsed->Render(messages)->text, as_json->text);
  EXPECT_EQ(parsed->Render(messages)->literal, as_json->literal);
}

// The output with its literal ranges in brackets.
std::string Bracketed(const MarkedText& text) {
  std::string out;
  size_t done = 0;
  for (const TextRange& range : text.literal) {
    out +=
        text.text.substr(done, range.begin - done) + "[" + text.text.substr(range.begin, range.end - range.begin) + "]";
    done = range.end;
  }
  return out + text.text.substr(done);
}

TEST_F(ChatTemplateTest, WhatMessagesSayIsLiteralHoweverItIsCutAndJoined) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"<{{ c }}>", "<[ <s>a </s>b ]>"},
      {"<{{ c | trim }}>", "<[<s>a </s>b]>"},
      {"<{{ c.strip() + '|' + c.lstrip() }}>", "<[<s>a </s>b]|[<s>a </s>b ]>"},
      {"{{ '<' ~ c ~ '>' }}", "<[ <s>a </s>b ]>"},
      {"{{ c.split('<s>')[1] }}|", "[a </s>b ]|"},
      {"{{ c.rsplit('</s>', 1)[0] }}|", "[ <s>a ]|"},
      {"{{ c.split() | join(',') }}", "[<s>a],[</s>b]"},
      {"{{ c.replace('a', 'X') }}", "[ <s>]X[ </s>b ]"},
      {"{{ 'a-b'.replace('-', c) }}", "a[ <s>a </s>b ]b"},
      {"{{ c[1:4] }}|{{ c[4] }}|{{ c[::-1] }}", "[<s>]|[a]|[ b>s/< a>s< ]"},
      {"{{ c | upper }}|{{ c | title }}", "[ <S>A </S>B ]|[ <S>a </s>b ]"},
      {"{{ '{} and {}'.format(c, 1) }}", "[ <s>a </s>b ] and 1"},
      {"{{ c.removeprefix(' ').removesuffix(' ') }}|", "[<s>a </s>b]|"},
      {"{{ c | string | safe }}|", "[ <s>a </s>b ]|"},
      {"{% set x %}<{{ c }}>{% endset %}{{ x }}", "<[ <s>a </s>b ]>"},
      {"{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(c) }}", "<[ <s>a </s>b ]>"},
      {"{% set ns = namespace(x='') %}{% set ns.x = ns.x + c %}{{ ns.x }}|", "[ <s>a </s>b ]|"},
      {"{% for x in c %}{{ x }}.{% endfor %}", "[ ].[<].[s].[>].[a].[ ].[<].[/].[s].[>].[b].[ ]."},
      {"{{ [c, 'x'] }}", "[[' <s>a </s>b '], 'x']"},
      {"{{ {'k': c} | tojson }}", "{\"k\": [\" <s>a </s>b \"]}"},
      {"{{ {c: 'v'} | tojson }}", "{[\" <s>a </s>b \"]: \"v\"}"},
      {"{% for k, v in {c: 'v'} | items %}{{ k ~ v }}{% endfor %}", "[ <s>a </s>b ]v"},
      {"{% for k in {c: 'v'} %}{{ k }}|{% endfor %}", "[ <s>a </s>b ]|"},
      {"{{ (c * 2) | length }}{{ c | first }}|", "24[ ]|"},
      {"{{ c if '<s>' in c }}{{ 'yes' if c.startswith(' <') }}", "[ <s>a </s>b ]yes"},
      {"{{ bos_token }}{{ '<|' + messages[0].role + '|>' }}", "<s><|user|>"},
  };
  for (const auto& [source, expected] : cases) {
    const auto parsed = ChatTemplate::Parse("{% set c = messages[0]['content'] %}" + std::string(source));
    ASSERT_TRUE(parsed.ok()) << source << ": " << parsed.failure().message;
    const std::vector<ChatMessage> messages = {{"user", " <s>a </s>b "}};
    const Result<MarkedText> text = parsed->Render(messages, Recorded());
    ASSERT_TRUE(text.ok()) << source << ": " << text.failure().message;
    EXPECT_EQ(Bracketed(*text), expected) << source;
  }
}

TEST_F(ChatTemplateTest, AllOfAJsonMessageButItsRoleIsLiteral) {
  const auto parsed =
      ChatTemplate::Parse("{% for m in messages %}<{{ m.role }}>{{ m.tool | tojson }}{% endfor %}{{ x }}");
  const Result<MarkedText> text =
      parsed->RenderJson(R"([{"role": "user", "tool": {"<s>": ["</s>"]}}])", {.variables_json = R"({"x": "<s>"})"});
  ASSERT_TRUE(text.ok()) << text.failure().message;
  EXPECT_EQ(Bracketed(*text), "<user>{[\"<s>\"]: [[\"</s>\"]]}[<s>]");
}

// A namespace may hold itself twice: every level of a naive printer doubles the last.
TEST_F(ChatTemplateTest, ContainersThatHoldThemselvesAreBounded) {
  for (const char* print : {"{{ n }}", "{{ n | tojson }}"}) {
    const auto parsed =
        ChatTemplate::Parse("{% set n = namespace() %}{% set n.a = n %}{% set n.b = n %}" + std::string(print));
    ASSERT_TRUE(parsed.ok()) << parsed.failure().message;
    EXPECT_FALSE(parsed->Render({}).ok());
  }
}

TEST_F(ChatTemplateTest, WhatIsOutsideTheSubsetIsRefusedWithItsLine) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"a\n{% include 'x' %}", "line 2: the statement {% include %}"},
      {"{% extends 'x' %}", "extends"},
      {"{% import 'x' as y %}", "import"},
      {"{% block b %}{% endblock %}", "block"},
      {"{% call f() %}{% endcall %}", "call"},
      {"{% filter upper %}x{% endfilter %}", "filter"},
      {"{% with x = 1 %}{% endwith %}", "with"},
      {"{% for x in y recursive %}{% endfor %}", "recursive"},
      {"{% set x | upper %}y{% endset %}", "set block"},
      {"\n\n{{ x | urlize }}", "line 3: the filter \"urlize\""},
      {"{{ x is filter }}", "the test \"is filter\""},
      {"{{ x.encode() }}", "the method \".encode()\""},
      {"{{ x.append(1) }}", "the method \".append()\""},
      {"{{ lipsum() }}", "the function \"lipsum\""},
      {"{{ 1 < 2 < 3 }}", "chain of comparisons"},
      {"{{ f(*x) }}", "unpacked arguments"},
      {"{{ 0x10 }}", "hexadecimal"},
      {"{{ 1e3 }}", "exponent"},
      {"{{ 99999999999999999999 }}", "64 bits"},
      {"{{ '\\123' }}", "octal"},
      {"{{ x[1, 2] }}", "comma"},
      {"{{ x | map('nope') }}", "map"},
      {"{{ x | selectattr('a', y) }}", "selectattr"},
      {"{{ +1 }}", "sign"},
      {"{{ 'a'(1) }}", "call of something else"},
  };
  for (const auto& [source, message] : cases) {
    const Result<ChatTemplate> parsed = ChatTemplate::Parse(source);
    ASSERT_FALSE(parsed.ok()) << source;
    EXPECT_THAT(parsed.failure().message, AllOf(HasSubstr("chat template line "), HasSubstr(message)));
  }
}

TEST_F(ChatTemplateTest, WhatDependsOnValuesIsRefusedWhenItIsReached) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"{{ 'é'|upper }}", "not ASCII"},
      {"{{ {1: 2} }}", "dict key"},
      {"{{ '%s' % 'x' }}", "%"},
      {"{{ 'x'|safe + 'y' }}", "safe"},
      {"{{ ['x'|safe]|join }}", "safe"},
      {"{{ 'x'|safe|trim }}", "safe"},
      {"{{ {'items': 1}.items }}", "names a method"},
      {"{{ strftime_now('%q') }}", "strftime_now"},
      {"{{ 9223372036854775807 + 1 }}", "64 bits"},
      {"{{ -9223372036854775807 - 2 }}", "64 bits"},
      {"{{ 2 ** 64 }}", "64 bits"},
      {"{{ '{x}'.format(1) }}", "format"},
      {"{{ {'a': 1}|tojson(sort_keys=true) }}", "sort_keys"},
      {"{% for i in [1] %}{{ loop.cycle }}{% endfor %}", "loop.cycle"},
  };
  for (const auto& [source, message] : cases) {
    const Result<ChatTemplate> parsed = ChatTemplate::Parse(source);
    ASSERT_TRUE(parsed.ok()) << source << ": " << parsed.failure().message;
    const Result<MarkedText> text = parsed->Render({});
    ASSERT_FALSE(text.ok()) << source << " gave " << text->text;
    EXPECT_EQ(text.failure().error, Error::kUnsupported) << source << ": " << text.failure().message;
    EXPECT_THAT(text.failure().message, AllOf(HasSubstr("chat template line 1"), HasSubstr(message)));
  }
}

TEST_F(ChatTemplateTest, BrokenTemplatesAreRefused) {
  for (const char* source : {"{{",
                             "{{ 'x }}",
                             "{% if %}",
                             "{% if x %}",
                             "{% endif %}",
                             "{% for x %}{% endfor %}",
                             "{{ x. }}",
                             "{{ ) }}",
                             "{{ (1 }}",
                             "{# open",
                             "{% raw %} x",
                             "{{ 1 + }}",
                             "{% set = 1 %}",
                             "{% set true = 1 %}",
                             "{% set loop = 1 %}",
                             "{{ a b }}",
                             "{% %}",
                             "{% else %}",
                             "{% break %}",
                             "{% macro %}{% endmacro %}",
                             "{{ \xff }}",
                             "{{ 'a' is }}",
                             "{{ x| }}",
                             "{{ $ }}",
                             "{{ \\ }}",
                             "{{ '\\u12' }}",
                             "{{ '\\ud800' }}",
                             "{{ f(a=1, 2) }}",
                             "{{ [1 }}",
                             "{{ {'a' 1} }}",
                             "{{ x[] }}",
                             "{{ x[1:2:3:4] }}"}) {
    const Result<ChatTemplate> parsed = ChatTemplate::Parse(source);
    ASSERT_FALSE(parsed.ok()) << source;
    EXPECT_EQ(parsed.failure().error, Error::kInvalidArgument) << source;
    EXPECT_THAT(parsed.failure().message, HasSubstr("chat template"));
  }
}

TEST_F(ChatTemplateTest, TemplatesRefuseMessagesInTheirOwnWords) {
  const Result<ChatTemplate> parsed = ChatTemplate::Parse(ReadRecorded("templates/mistral-v1.jinja"));
  const std::vector<ChatMessage> messages = {{"system", "x"}};
  const Result<MarkedText> text = parsed->Render(messages);
  ASSERT_FALSE(text.ok());
  EXPECT_EQ(text.failure().error, Error::kInvalidArgument);
  EXPECT_THAT(text.failure().message, HasSubstr("Conversation roles must alternate"));
}

TEST_F(ChatTemplateTest, BadInputIsRefused) {
  const Result<ChatTemplate> parsed = ChatTemplate::Parse("{{ messages }}");
  const std::vector<ChatMessage> invalid = {{"user", "a\xff"}};
  EXPECT_THAT(parsed->Render(invalid).failure().message, HasSubstr("message 0 is not valid UTF-8 at byte 1"));
  EXPECT_EQ(parsed->RenderJson("{}").failure().error, Error::kInvalidArgument);
  EXPECT_EQ(parsed->RenderJson("[").failure().error, Error::kInvalidArgument);
  EXPECT_EQ(parsed->Render({}, {.variables_json = "[]"}).failure().error, Error::kInvalidArgument);
  EXPECT_EQ(parsed->RenderJson(std::string(1000, '[') + std::string(1000, ']')).failure().error,
            Error::kInvalidArgument);
}

TEST_F(ChatTemplateTest, EvaluationIsBounded) {
  const char* const runaways[] = {
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
      "{{ 'x' * 1000000000000 }}",
      "{{ 'xx' * 9223372036854775807 }}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{{ range(100001) }}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
      "{% for i in range(100000) %}{{ 'x' * 10000 }}{% endfor %}",
  };
  for (const char* source : runaways) {
    const Result<ChatTemplate> parsed = ChatTemplate::Parse(source);
    ASSERT_TRUE(parsed.ok()) << source;
    const Result<MarkedText> text = parsed->Render({});
    ASSERT_FALSE(text.ok()) << source;
    EXPECT_EQ(text.failure().error, Error::kOutOfMemory) << source << ": " << text.failure().message;
  }
}

TEST_F(ChatTemplateTest, NestingIsBounded) {
  const auto repeat = [](const std::string& unit, size_t times) {
    std::string text;
    for (size_t i = 0; i < times; ++i) text += unit;
    return text;
  };
  const size_t n = 100000;
  for (const std::string& source :
       {"{{ " + repeat("(", n) + "1" + repeat(")", n) + " }}", "{{ " + repeat("not ", n) + "1 }}",
        "{{ 1" + repeat(" + 1", n) + " }}", "{{ x" + repeat(".a", n) + " }}", "{{ x" + repeat("|trim", n) + " }}",
        repeat("{% if 1 %}", n), repeat("{% for a in b %}", n), "{{ " + repeat("[", n) + " }}",
        "{{ " + repeat("- ", n) + "1 }}", "{{ 1" + repeat(" if 1 else 1", n) + " }}",
        "{% if 1 %}" + repeat("{% elif 1 %}", n) + "{% endif %}", "{{ 1" + repeat(" ~ 1", n) + " }}",
        "{{ x" + repeat("[0]", n) + " }}"}) {
    EXPECT_FALSE(ChatTemplate::Parse(source).ok()) << source.substr(0, 40);
  }
}

// The longest text a user pastes must not make a template quadratic.
TEST_F(ChatTemplateTest, LongMessagesRenderInLinearTime) {
  const Result<ChatTemplate> parsed = ChatTemplate::Parse(ReadRecorded("templates/qwen3.jinja"));
  const std::vector<ChatMessage> messages = {
      {"user", std::string(4 << 20, 'x')}, {"assistant", std::string(4 << 20, 'y')}, {"user", "z"}};
  const Result<MarkedText> text = parsed->Render(messages);
  ASSERT_TRUE(text.ok()) << text.failure().message;
  EXPECT_GT(text->text.size(), size_t{8} << 20);
}

}  // namespace
}  // namespace cachette
