#include "text/jinja/parser.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <span>

#include "text/jinja/builtins.h"
#include "text/jinja/lexer.h"

namespace cachette::jinja {
namespace {

using Kind = Token::Kind;
using Op = Expression::Op;

constexpr int kMaxParseDepth = 100;  // of nested expressions and blocks; real templates stay below 20

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Result<Body> Run() {
    CACHETTE_TRY(Body body, ParseBody({}));
    for (const auto& [name, line] : called_) {
      if (!Contains(FunctionNames(), name) && !assigned_.contains(name)) {
        return Refuse(line, fmt::format("the function \"{}\" is not supported; supported: {} and macros", name,
                                        fmt::join(FunctionNames(), ", ")));
      }
    }
    return body;
  }

 private:
  static bool Contains(std::span<const std::string_view> names, std::string_view name) {
    return std::ranges::find(names, name) != names.end();
  }
  static Failure Refuse(int line, std::string_view what) {
    return Fail(Error::kUnsupported, fmt::format("chat template line {}: {}", line, what));
  }
  Failure Bad(std::string_view what) const {
    return Fail(Error::kInvalidArgument, fmt::format("chat template line {}: {}", Peek().line, what));
  }

  const Token& Peek(size_t ahead = 0) const { return tokens_[std::min(pos_ + ahead, tokens_.size() - 1)]; }
  Token Take() {
    Token token = Peek();
    if (pos_ + 1 < tokens_.size()) ++pos_;
    return token;
  }
  bool At(Kind kind, std::string_view text, size_t ahead = 0) const {
    return Peek(ahead).kind == kind && Peek(ahead).text == text;
  }
  bool AtName(std::string_view name, size_t ahead = 0) const { return At(Kind::kName, name, ahead); }
  bool AtOp(std::string_view op) const { return At(Kind::kOperator, op); }
  bool Accept(Kind kind, std::string_view text) {
    if (!At(kind, text)) return false;
    Take();
    return true;
  }
  static std::string Describe(const Token& token) {
    switch (token.kind) {
      case Kind::kText: return "text";
      case Kind::kBlockBegin: return "\"{%\"";
      case Kind::kBlockEnd: return "\"%}\"";
      case Kind::kPrintBegin: return "\"{{\"";
      case Kind::kPrintEnd: return "\"}}\"";
      case Kind::kEnd: return "the end of the template";
      default: return fmt::format("\"{}\"", token.text);
    }
  }
  Result<void> Expect(Kind kind, std::string_view text, std::string_view what) {
    if (Accept(kind, text)) return Ok();
    return Bad(fmt::format("expected {}, found {}", what, Describe(Peek())));
  }
  Result<void> ExpectBlockEnd() { return Expect(Kind::kBlockEnd, "", "\"%}\""); }
  Result<std::string> ExpectName(std::string_view what) {
    if (Peek().kind != Kind::kName) return Bad(fmt::format("expected {}, found {}", what, Describe(Peek())));
    return Take().text;
  }

  // Counts open recursions; refuses what nests too deep before the stack does.
  struct Nesting {
    explicit Nesting(int& depth) : depth_(depth) { ++depth_; }
    ~Nesting() { --depth_; }
    int& depth_;
  };
  Result<void> CheckDepth() const {
    if (depth_ <= kMaxParseDepth) return Ok();
    return Refuse(Peek().line, fmt::format("more than {} expressions or blocks inside each other", kMaxParseDepth));
  }

  // ---- statements ----

  // Statements up to {% name %} with a name in ends (its "{%" and name are consumed), or the end when ends is empty.
  Result<Body> ParseBody(const std::vector<std::string_view>& ends, std::string* found = nullptr) {
    const Nesting nesting(depth_);
    CACHETTE_TRY(CheckDepth());
    Body body;
    for (;;) {
      const int line = Peek().line;
      if (Peek().kind == Kind::kEnd) {
        if (ends.empty()) return body;
        return Bad(fmt::format("a block is not closed, expected {}", fmt::join(ends, " or ")));
      }
      if (Peek().kind == Kind::kText) {
        Statement text(Statement::Kind::kText, line);
        text.text = Take().text;
        body.push_back(std::move(text));
      } else if (Peek().kind == Kind::kPrintBegin) {
        Take();
        Statement print(Statement::Kind::kPrint, line);
        CACHETTE_TRY(print.value, ParseTuple());
        CACHETTE_TRY(Expect(Kind::kPrintEnd, "", "\"}}\""));
        body.push_back(std::move(print));
      } else {
        Take();
        CACHETTE_TRY(const std::string name, ExpectName("a statement"));
        if (std::ranges::find(ends, name) != ends.end()) {
          *found = name;
          return body;
        }
        CACHETTE_TRY(ParseStatement(name, line, body));
      }
    }
  }

  Result<void> ParseStatement(const std::string& name, int line, Body& body) {
    Statement statement(Statement::Kind::kScope, line);
    if (name == "if") {
      CACHETTE_TRY(ParseIf(statement));
    } else if (name == "for") {
      CACHETTE_TRY(ParseFor(statement));
    } else if (name == "set") {
      CACHETTE_TRY(ParseSet(statement));
    } else if (name == "macro") {
      CACHETTE_TRY(ParseMacro(statement));
    } else if (name == "break" || name == "continue") {
      if (loop_depth_ == 0) return Bad(fmt::format("{} outside of a loop", name));
      statement.kind = name == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue;
      CACHETTE_TRY(ExpectBlockEnd());
    } else if (name == "generation") {  // marks the assistant's part for training; prints its body
      statement.kind = Statement::Kind::kScope;
      CACHETTE_TRY(ExpectBlockEnd());
      std::string end;
      CACHETTE_TRY(statement.body, ParseBody({"endgeneration"}, &end));
      CACHETTE_TRY(ExpectBlockEnd());
    } else if (name.starts_with("end") || name == "elif" || name == "else") {
      return Bad(fmt::format("{} closes nothing", name));
    } else {
      return Refuse(line,
                    fmt::format("the statement {{% {} %}} is not supported; supported: if, for, set, macro, break, "
                                "continue, raw, generation",
                                name));
    }
    body.push_back(std::move(statement));
    return Ok();
  }

  Result<void> ParseIf(Statement& statement) {
    const Nesting nesting(depth_);  // an elif is an if inside the else
    CACHETTE_TRY(CheckDepth());
    statement.kind = Statement::Kind::kIf;
    CACHETTE_TRY(statement.value, ParseTuple());
    CACHETTE_TRY(ExpectBlockEnd());
    std::string end;
    CACHETTE_TRY(statement.body, ParseBody({"elif", "else", "endif"}, &end));
    if (end == "elif") {
      Statement inner(Statement::Kind::kIf, Peek().line);
      CACHETTE_TRY(ParseIf(inner));
      statement.otherwise.push_back(std::move(inner));
      return Ok();
    }
    CACHETTE_TRY(ExpectBlockEnd());
    if (end == "else") {
      CACHETTE_TRY(statement.otherwise, ParseBody({"endif"}, &end));
      CACHETTE_TRY(ExpectBlockEnd());
    }
    return Ok();
  }

  Result<void> ParseFor(Statement& statement) {
    statement.kind = Statement::Kind::kFor;
    CACHETTE_TRY(ParseTargets(statement.targets));
    CACHETTE_TRY(Expect(Kind::kName, "in", "\"in\""));
    CACHETTE_TRY(statement.value, ParseTuple(/*with_conditional=*/false));
    if (Accept(Kind::kName, "if")) {
      CACHETTE_TRY(statement.condition, ParseExpression());
    }
    if (AtName("recursive")) return Refuse(Peek().line, "a recursive loop is not supported; use a plain loop");
    CACHETTE_TRY(ExpectBlockEnd());
    std::string end;
    ++loop_depth_;
    CACHETTE_TRY(statement.body, ParseBody({"else", "endfor"}, &end));
    --loop_depth_;
    CACHETTE_TRY(ExpectBlockEnd());
    if (end == "else") {
      CACHETTE_TRY(statement.otherwise, ParseBody({"endfor"}, &end));
      CACHETTE_TRY(ExpectBlockEnd());
    }
    return Ok();
  }

  Result<void> ParseTargets(std::vector<std::string>& targets) {
    const bool in_parentheses = Accept(Kind::kOperator, "(");
    do {
      CACHETTE_TRY(std::string name, ExpectName("a variable"));
      if (name == "loop" || IsReserved(name)) return Bad(fmt::format("\"{}\" cannot be assigned", name));
      assigned_.insert(name);
      targets.push_back(std::move(name));
    } while (Accept(Kind::kOperator, ","));
    if (in_parentheses) CACHETTE_TRY(Expect(Kind::kOperator, ")", "\")\""));
    return Ok();
  }

  Result<void> ParseSet(Statement& statement) {
    statement.kind = Statement::Kind::kSet;
    CACHETTE_TRY(ParseTargets(statement.targets));
    if (statement.targets.size() == 1 && Accept(Kind::kOperator, ".")) {
      CACHETTE_TRY(statement.member, ExpectName("an attribute"));
    }
    if (Accept(Kind::kOperator, "=")) {
      CACHETTE_TRY(statement.value, ParseTuple());
      return ExpectBlockEnd();
    }
    if (AtOp("|"))
      return Refuse(Peek().line, "a filter on a set block is not supported; filter the variable afterwards");
    if (statement.targets.size() != 1 || !statement.member.empty()) return Bad("expected \"=\"");
    statement.kind = Statement::Kind::kSetBlock;
    CACHETTE_TRY(ExpectBlockEnd());
    std::string end;
    CACHETTE_TRY(statement.body, ParseBody({"endset"}, &end));
    return ExpectBlockEnd();
  }

  Result<void> ParseMacro(Statement& statement) {
    statement.kind = Statement::Kind::kMacro;
    auto macro = std::make_shared<MacroNode>();
    CACHETTE_TRY(macro->name, ExpectName("a macro name"));
    assigned_.insert(macro->name);
    CACHETTE_TRY(Expect(Kind::kOperator, "(", "\"(\""));
    while (!AtOp(")")) {
      CACHETTE_TRY(std::string parameter, ExpectName("a parameter"));
      assigned_.insert(parameter);
      ExpressionPtr fallback;
      if (Accept(Kind::kOperator, "=")) {
        CACHETTE_TRY(fallback, ParseExpression());
      }
      macro->parameters.emplace_back(std::move(parameter), std::move(fallback));
      if (!Accept(Kind::kOperator, ",")) break;
    }
    CACHETTE_TRY(Expect(Kind::kOperator, ")", "\")\""));
    CACHETTE_TRY(ExpectBlockEnd());
    std::string end;
    const int outer_loops = std::exchange(loop_depth_, 0);
    CACHETTE_TRY(macro->body, ParseBody({"endmacro"}, &end));
    loop_depth_ = outer_loops;
    Accept(Kind::kName, macro->name);  // {% endmacro name %}
    CACHETTE_TRY(ExpectBlockEnd());
    statement.macro = std::move(macro);
    return Ok();
  }

  // ---- expressions, loosest binding first ----

  static bool IsReserved(std::string_view name) {
    static constexpr std::string_view kReserved[] = {"and",  "or",    "not",  "in",   "is",    "if",  "else",
                                                     "true", "false", "none", "True", "False", "None"};
    return std::ranges::find(kReserved, name) != std::end(kReserved);
  }

  Result<ExpressionPtr> Make(Expression::Kind kind, int line, std::vector<ExpressionPtr> children, Op op = Op::kNone) {
    auto node = std::make_unique<Expression>();
    node->kind = kind;
    node->op = op;
    node->line = line;
    node->children = std::move(children);
    for (const ExpressionPtr& child : node->children) {
      if (child != nullptr) node->depth = std::max(node->depth, child->depth + 1);
    }
    if (node->depth > kMaxParseDepth)
      return Refuse(line, fmt::format("an expression nests more than {} deep", kMaxParseDepth));
    return node;
  }
  template <class... Children>
  Result<ExpressionPtr> MakeFrom(Expression::Kind kind, int line, Op op, Children... child) {
    std::vector<ExpressionPtr> children;
    (children.push_back(std::move(child)), ...);
    return Make(kind, line, std::move(children), op);
  }

  // One expression, or several with commas between them: a tuple without parentheses.
  Result<ExpressionPtr> ParseTuple(bool with_conditional = true) {
    const int line = Peek().line;
    CACHETTE_TRY(ExpressionPtr first, with_conditional ? ParseExpression() : ParseOr());
    if (!AtOp(",")) return first;
    std::vector<ExpressionPtr> items;
    items.push_back(std::move(first));
    while (Accept(Kind::kOperator, ",")) {
      if (Peek().kind == Kind::kBlockEnd || Peek().kind == Kind::kPrintEnd || AtOp(")")) break;
      CACHETTE_TRY(ExpressionPtr item, with_conditional ? ParseExpression() : ParseOr());
      items.push_back(std::move(item));
    }
    return Make(Expression::Kind::kTuple, line, std::move(items));
  }

  Result<ExpressionPtr> ParseExpression() {
    const Nesting nesting(depth_);
    CACHETTE_TRY(CheckDepth());
    CACHETTE_TRY(ExpressionPtr value, ParseOr());
    while (AtName("if")) {
      const int line = Take().line;
      CACHETTE_TRY(ExpressionPtr condition, ParseOr());
      ExpressionPtr otherwise;
      if (Accept(Kind::kName, "else")) {
        CACHETTE_TRY(otherwise, ParseExpression());
      }
      CACHETTE_TRY(value, MakeFrom(Expression::Kind::kConditional, line, Op::kNone, std::move(value),
                                   std::move(condition), std::move(otherwise)));
    }
    return value;
  }

  Result<ExpressionPtr> ParseOr() {
    CACHETTE_TRY(ExpressionPtr left, ParseAnd());
    while (AtName("or")) {
      const int line = Take().line;
      CACHETTE_TRY(ExpressionPtr right, ParseAnd());
      CACHETTE_TRY(left, MakeFrom(Expression::Kind::kOr, line, Op::kNone, std::move(left), std::move(right)));
    }
    return left;
  }

  Result<ExpressionPtr> ParseAnd() {
    CACHETTE_TRY(ExpressionPtr left, ParseNot());
    while (AtName("and")) {
      const int line = Take().line;
      CACHETTE_TRY(ExpressionPtr right, ParseNot());
      CACHETTE_TRY(left, MakeFrom(Expression::Kind::kAnd, line, Op::kNone, std::move(left), std::move(right)));
    }
    return left;
  }

  Result<ExpressionPtr> ParseNot() {
    if (!AtName("not")) return ParseComparison();
    const Nesting nesting(depth_);
    CACHETTE_TRY(CheckDepth());
    const int line = Take().line;
    CACHETTE_TRY(ExpressionPtr value, ParseNot());
    return MakeFrom(Expression::Kind::kNot, line, Op::kNone, std::move(value));
  }

  std::optional<Op> TakeComparison() {
    static constexpr std::pair<std::string_view, Op> kOps[] = {{"==", Op::kEqual},     {"!=", Op::kNotEqual},
                                                               {"<=", Op::kLessEqual}, {">=", Op::kGreaterEqual},
                                                               {"<", Op::kLess},       {">", Op::kGreater}};
    for (const auto& [text, op] : kOps) {
      if (Accept(Kind::kOperator, text)) return op;
    }
    if (Accept(Kind::kName, "in")) return Op::kIn;
    if (AtName("not") && AtName("in", 1)) {
      Take();
      Take();
      return Op::kNotIn;
    }
    return std::nullopt;
  }

  Result<ExpressionPtr> ParseComparison() {
    CACHETTE_TRY(ExpressionPtr left, ParseSum());
    const int line = Peek().line;
    const std::optional<Op> op = TakeComparison();
    if (!op) return left;
    CACHETTE_TRY(ExpressionPtr right, ParseSum());
    if (TakeComparison()) return Refuse(line, "a chain of comparisons is not supported; join them with \"and\"");
    return MakeFrom(Expression::Kind::kBinary, line, *op, std::move(left), std::move(right));
  }

  // Left-associative operators of one level.
  template <class Next>
  Result<ExpressionPtr> ParseLevel(std::span<const std::pair<std::string_view, Op>> ops, const Next& next) {
    CACHETTE_TRY(ExpressionPtr left, next());
    for (;;) {
      const auto op = std::ranges::find_if(ops, [&](const auto& candidate) { return AtOp(candidate.first); });
      if (op == ops.end()) return left;
      const int line = Take().line;
      CACHETTE_TRY(ExpressionPtr right, next());
      CACHETTE_TRY(left, MakeFrom(Expression::Kind::kBinary, line, op->second, std::move(left), std::move(right)));
    }
  }
  Result<ExpressionPtr> ParseSum() {
    static constexpr std::pair<std::string_view, Op> kOps[] = {{"+", Op::kAdd}, {"-", Op::kSubtract}};
    return ParseLevel(kOps, [this] { return ParseJoin(); });
  }
  Result<ExpressionPtr> ParseJoin() {
    static constexpr std::pair<std::string_view, Op> kOps[] = {{"~", Op::kJoin}};
    return ParseLevel(kOps, [this] { return ParseProduct(); });
  }
  Result<ExpressionPtr> ParseProduct() {
    static constexpr std::pair<std::string_view, Op> kOps[] = {
        {"*", Op::kMultiply}, {"/", Op::kDivide}, {"//", Op::kFloorDivide}, {"%", Op::kModulo}};
    return ParseLevel(kOps, [this] { return ParsePower(); });
  }
  Result<ExpressionPtr> ParsePower() {
    static constexpr std::pair<std::string_view, Op> kOps[] = {{"**", Op::kPower}};
    return ParseLevel(kOps, [this] { return ParseUnary(true); });
  }

  Result<ExpressionPtr> ParseUnary(bool with_filters) {
    const Nesting nesting(depth_);
    CACHETTE_TRY(CheckDepth());
    const int line = Peek().line;
    ExpressionPtr node;
    if (Accept(Kind::kOperator, "-")) {
      CACHETTE_TRY(ExpressionPtr value, ParseUnary(false));
      CACHETTE_TRY(node, MakeFrom(Expression::Kind::kNegate, line, Op::kNone, std::move(value)));
    } else if (AtOp("+")) {
      return Refuse(line, "a sign \"+\" is not supported; leave it out");
    } else {
      CACHETTE_TRY(node, ParsePrimary());
      CACHETTE_TRY(node, ParsePostfix(std::move(node)));
    }
    return with_filters ? ParseFiltersAndTests(std::move(node)) : std::move(node);
  }

  Result<ExpressionPtr> Literal(int line, Value value) {
    CACHETTE_TRY(ExpressionPtr node, Make(Expression::Kind::kLiteral, line, {}));
    node->literal = std::move(value);
    return node;
  }

  Result<ExpressionPtr> ParsePrimary() {
    const int line = Peek().line;
    if (Peek().kind == Kind::kString) {
      std::string text = Take().text;
      while (Peek().kind == Kind::kString) text += Take().text;  // neighbours join
      return Literal(line, Value::MakeString(std::move(text)));
    }
    if (Peek().kind == Kind::kInteger || Peek().kind == Kind::kFloat) return ParseNumber();
    if (Peek().kind == Kind::kName) {
      const std::string name = Take().text;
      if (name == "true" || name == "True") return Literal(line, Value::MakeBool(true));
      if (name == "false" || name == "False") return Literal(line, Value::MakeBool(false));
      if (name == "none" || name == "None") return Literal(line, Value::MakeNone());
      if (IsReserved(name)) return Bad(fmt::format("expected an expression, found \"{}\"", name));
      CACHETTE_TRY(ExpressionPtr node, Make(Expression::Kind::kName, line, {}));
      node->name = name;
      return node;
    }
    if (Accept(Kind::kOperator, "(")) {
      if (Accept(Kind::kOperator, ")")) return Make(Expression::Kind::kTuple, line, {});
      CACHETTE_TRY(ExpressionPtr inner, ParseTuple());
      CACHETTE_TRY(Expect(Kind::kOperator, ")", "\")\""));
      return inner;
    }
    if (AtOp("[") || AtOp("{")) return ParseContainer();
    return Bad(fmt::format("expected an expression, found {}", Describe(Peek())));
  }

  Result<ExpressionPtr> ParseNumber() {
    const Token token = Take();
    const char* end = token.text.data() + token.text.size();
    if (token.kind == Kind::kFloat) {
      double value = 0;
      std::from_chars(token.text.data(), end, value);
      return Literal(token.line, Value::MakeFloat(value));
    }
    int64_t value = 0;
    if (std::from_chars(token.text.data(), end, value).ec != std::errc()) {
      return Refuse(token.line, fmt::format("the number {} does not fit 64 bits", token.text));
    }
    return Literal(token.line, Value::MakeInt(value));
  }

  Result<ExpressionPtr> ParseContainer() {
    const Token open = Take();
    const bool is_dict = open.text == "{";
    const std::string_view close = is_dict ? "}" : "]";
    std::vector<ExpressionPtr> children;
    while (!AtOp(close)) {
      CACHETTE_TRY(ExpressionPtr item, ParseExpression());
      children.push_back(std::move(item));
      if (is_dict) {
        CACHETTE_TRY(Expect(Kind::kOperator, ":", "\":\""));
        CACHETTE_TRY(ExpressionPtr value, ParseExpression());
        children.push_back(std::move(value));
      }
      if (!Accept(Kind::kOperator, ",")) break;
    }
    CACHETTE_TRY(Expect(Kind::kOperator, close, fmt::format("\"{}\"", close)));
    return Make(is_dict ? Expression::Kind::kDict : Expression::Kind::kList, open.line, std::move(children));
  }

  Result<ExpressionPtr> ParsePostfix(ExpressionPtr node) {
    for (;;) {
      const int line = Peek().line;
      if (Accept(Kind::kOperator, ".")) {
        if (Peek().kind == Kind::kInteger) return Refuse(line, "an index after a point is not supported; use [ ]");
        CACHETTE_TRY(const std::string name, ExpectName("an attribute"));
        if (!AtOp("(")) {
          CACHETTE_TRY(node, MakeFrom(Expression::Kind::kMember, line, Op::kNone, std::move(node)));
          node->name = name;
          continue;
        }
        if (!Contains(MethodNames(), name)) {
          return Refuse(line, fmt::format("the method \".{}()\" is not supported; supported: {}", name,
                                          fmt::join(MethodNames(), ", ")));
        }
        CACHETTE_TRY(node, MakeFrom(Expression::Kind::kCall, line, Op::kNone, std::move(node)));
        CACHETTE_TRY(ParseCallArguments(*node));
        node->name = name;
      } else if (AtOp("[")) {
        CACHETTE_TRY(node, ParseSubscript(std::move(node)));
      } else if (AtOp("(")) {
        if (node->kind != Expression::Kind::kName)
          return Refuse(line, "a call of something else than a name or method is not supported");
        called_.emplace_back(node->name, line);
        std::string name = std::move(node->name);
        CACHETTE_TRY(node, Make(Expression::Kind::kCall, line, {}));
        node->name = std::move(name);
        CACHETTE_TRY(ParseCallArguments(*node));
      } else {
        return node;
      }
    }
  }

  Result<ExpressionPtr> ParseSubscript(ExpressionPtr node) {
    const int line = Take().line;
    std::vector<ExpressionPtr> parts(1);
    bool is_slice = false;
    while (!AtOp("]")) {
      if (Accept(Kind::kOperator, ":")) {
        is_slice = true;
        parts.emplace_back();
      } else if (parts.back() != nullptr) {
        break;
      } else {
        CACHETTE_TRY(parts.back(), ParseExpression());
      }
    }
    if (AtOp(",")) return Refuse(line, "a subscript with a comma is not supported");
    CACHETTE_TRY(Expect(Kind::kOperator, "]", "\"]\""));
    if (parts.size() > 3) return Bad("a slice has more than three parts");
    if (!is_slice && parts[0] == nullptr) return Bad("an empty subscript");
    if (!is_slice) return MakeFrom(Expression::Kind::kItem, line, Op::kNone, std::move(node), std::move(parts[0]));
    parts.resize(3);
    return MakeFrom(Expression::Kind::kSlice, line, Op::kNone, std::move(node), std::move(parts[0]),
                    std::move(parts[1]), std::move(parts[2]));
  }

  // "(" ... ")" into node.arguments.
  Result<void> ParseCallArguments(Expression& node) {
    CACHETTE_TRY(Expect(Kind::kOperator, "(", "\"(\""));
    while (!AtOp(")")) {
      if (AtOp("*") || AtOp("**")) return Refuse(Peek().line, "unpacked arguments (* or **) are not supported");
      ExpressionPtr value;
      if (Peek().kind == Kind::kName && At(Kind::kOperator, "=", 1)) {
        std::string name = Take().text;
        Take();
        CACHETTE_TRY(value, ParseExpression());
        node.depth = std::max(node.depth, value->depth + 1);
        node.arguments.named.emplace_back(std::move(name), std::move(value));
      } else {
        if (!node.arguments.named.empty()) return Bad("a positional argument follows a named one");
        CACHETTE_TRY(value, ParseExpression());
        node.depth = std::max(node.depth, value->depth + 1);
        node.arguments.positional.push_back(std::move(value));
      }
      if (!Accept(Kind::kOperator, ",")) break;
    }
    return Expect(Kind::kOperator, ")", "\")\"");
  }

  Result<ExpressionPtr> ParseFiltersAndTests(ExpressionPtr node) {
    for (;;) {
      const int line = Peek().line;
      if (Accept(Kind::kOperator, "|")) {
        CACHETTE_TRY(const std::string name, ExpectName("a filter"));
        if (!Contains(FilterNames(), name)) {
          return Refuse(line, fmt::format("the filter \"{}\" is not supported; supported: {}", name,
                                          fmt::join(FilterNames(), ", ")));
        }
        CACHETTE_TRY(node, MakeFrom(Expression::Kind::kFilter, line, Op::kNone, std::move(node)));
        node->name = name;
        if (AtOp("(")) CACHETTE_TRY(ParseCallArguments(*node));
        CACHETTE_TRY(CheckNestedNames(*node));
      } else if (Accept(Kind::kName, "is")) {
        CACHETTE_TRY(node, ParseTest(std::move(node), line));
      } else if (AtOp("(") || AtOp("[") || AtOp(".")) {
        return Refuse(line, "a subscript, attribute or call right after a filter is not supported; use parentheses");
      } else {
        return node;
      }
    }
  }

  // select("test"), map("filter"): the names must be literal, and known.
  Result<void> CheckNestedNames(const Expression& filter) {
    const bool by_attribute = filter.name == "selectattr" || filter.name == "rejectattr";
    const bool by_test = by_attribute || filter.name == "select" || filter.name == "reject";
    if (!by_test && filter.name != "map") return Ok();
    const size_t at = by_attribute ? 1 : 0;
    if (filter.arguments.positional.size() <= at) return Ok();
    const Expression& name = *filter.arguments.positional[at];
    if (name.kind != Expression::Kind::kLiteral || !name.literal.IsString() ||
        !Contains(by_test ? TestNames() : FilterNames(), name.literal.String())) {
      return Refuse(filter.line, fmt::format("the filter \"{}\" needs the name of a supported {} as a string",
                                             filter.name, by_test ? "test" : "filter"));
    }
    return Ok();
  }

  Result<ExpressionPtr> ParseTest(ExpressionPtr node, int line) {
    const bool negated = Accept(Kind::kName, "not");
    CACHETTE_TRY(const std::string name, ExpectName("a test"));
    if (!Contains(TestNames(), name)) {
      return Refuse(
          line, fmt::format("the test \"is {}\" is not supported; supported: {}", name, fmt::join(TestNames(), ", ")));
    }
    CACHETTE_TRY(node, MakeFrom(Expression::Kind::kTest, line, Op::kNone, std::move(node)));
    node->name = name;
    if (AtOp("(")) {
      CACHETTE_TRY(ParseCallArguments(*node));
    } else if (StartsTestArgument()) {
      CACHETTE_TRY(ExpressionPtr argument, ParsePrimary());
      CACHETTE_TRY(argument, ParsePostfix(std::move(argument)));
      node->depth = std::max(node->depth, argument->depth + 1);
      node->arguments.positional.push_back(std::move(argument));
    }
    if (!negated) return node;
    return MakeFrom(Expression::Kind::kNot, line, Op::kNone, std::move(node));
  }

  bool StartsTestArgument() const {
    const Token& next = Peek();
    if (next.kind == Kind::kName)
      return next.text == "true" || next.text == "false" || next.text == "none" || !IsReserved(next.text);
    return next.kind == Kind::kString || next.kind == Kind::kInteger || next.kind == Kind::kFloat || AtOp("[") ||
           AtOp("{");
  }

  std::vector<Token> tokens_;
  size_t pos_ = 0;
  int depth_ = 0;
  int loop_depth_ = 0;
  std::set<std::string, std::less<>> assigned_;      // variables, parameters and macros: may be called
  std::vector<std::pair<std::string, int>> called_;  // names called, with their line
};

}  // namespace

Result<Body> ParseTemplate(std::string_view source) {
  CACHETTE_TRY(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace cachette::jinja
