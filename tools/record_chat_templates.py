#!/usr/bin/env python3
"""Records what Jinja makes of chat templates, for tests/text/chat_template_test.cc.

  python3 -m venv venv && venv/bin/pip install jinja2==3.1.6
  TZ=UTC venv/bin/python tools/record_chat_templates.py

Jinja is set up as transformers does in apply_chat_template. Writes tests/data/tokenizer/templates.json (every
templates/*.jinja on several conversations) and snippets.json (small templates, one construct each). A row's "error"
says that Jinja fails; its message is not compared.
"""
import datetime
import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.sandbox

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests/data/tokenizer"
NOW = 1700000000  # 14 Nov 2023 22:13:20 UTC


class Generation(jinja2.ext.Extension):
    """{% generation %}, which prints its body."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                       extensions=[Generation, jinja2.ext.loopcontrols])

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(f)
    return env


def render(source, messages, variables, add_generation_prompt):
    values = dict(messages=messages, tools=None, documents=None, add_generation_prompt=add_generation_prompt,
                  bos_token="<s>", eos_token="</s>")
    values.update(variables)
    try:
        return {"text": environment().from_string(source).render(**values)}
    except Exception as error:  # what fails in Jinja must fail in the engine
        return {"error": f"{type(error).__name__}: {error}"}


def user(text): return {"role": "user", "content": text}
def assistant(text): return {"role": "assistant", "content": text}
def system(text): return {"role": "system", "content": text}


TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather \"now\" in <b>Zürich</b>", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "City"}, "days": {"type": "integer", "enum": [1, 2]}},
    "required": ["city"]}}}
CALL = {"role": "assistant", "content": "", "tool_calls": [
    {"id": "abcdefghi", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Bern", "days": 2}}}]}
CONVERSATIONS = [
    [user("Hi")],
    [system("Be terse. "), user(" Hello \n world\n"), assistant("  Yes.\n"), user("日本語 \u00a0\u2003")],
    [user("a"), assistant("<think>\nhm\n</think>\n\nanswer"), user("b")],
    [system("s"), user("w?"), CALL, {"role": "tool", "content": "{\"t\": 3}", "tool_call_id": "abcdefghi", "name": "get_weather"},
     assistant("3 degrees"), user("thx")],
    [user("a"), user("b")], [assistant("x")], [system("only")], [user("<b>'\"&</b> {{ x }} {% y %}")],
    [user([{"type": "text", "text": "part"}, {"type": "text", "text": " two "}])], []]
VARIABLES = [{}, {"tools": [TOOL]}, {"enable_thinking": False}]

SNIPPETS = r"""
{{ 1 + 2 * 3 - 4 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ -2 ** 2 }} {{ 6 / 3 }}
{{ 1.5 + 1 }} {{ 2.0 }} {{ 0.1 + 0.2 }} {{ 7.5 // 2 }} {{ 7.5 % 2 }} {{ -1.5 }} {{ 10 / 4 }} {{ 100000000000000000000.0 }} {{ 0.00001 }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.0 ~ [1, 'x'] }} {{ "a" 'b' }} {{ 'x' * 3 }} {{ 2 * 'ab' }} {{ 'x' * 0 }} {{ [1] + [2] }} {{ (1, 2) + (3,) }}
{{ 1 == 1.0 }} {{ 1 == true }} {{ '1' == 1 }} {{ none == false }} {{ [1, 2] == [1, 2] }} {{ (1, 2) == [1, 2] }} {{ {'a': 1} == {'a': 1.0} }} {{ 1 != 2 }}
{{ 1 < 2 }} {{ 2 <= 2 }} {{ 'a' < 'b' }} {{ 'Z' < 'a' }} {{ 'é' > 'z' }} {{ 3 > 2.5 }} {{ 2 >= 3 }} {{ 1 < none }}
{{ 1 in [1, 2] }} {{ 'b' in 'abc' }} {{ 'x' not in 'abc' }} {{ 'a' in {'a': 1} }} {{ 1 in {'a': 1} }} {{ '' in 'a' }} {{ none in [none] }} {{ 'a' in nothing }}
{{ true and false or true }} {{ not true and false }} {{ not (true and false) }} {{ 0 or 'x' }} {{ 1 and '' }}| {{ none or nothing }}| {{ not none }}
{{ 'yes' if 1 else 'no' }} {{ 'yes' if 0 else 'no' }} {{ 'x' if false }}| {{ 'a' if false else 'b' if false else 'c' }} {{ (1 if true else 2) + 1 }}
{{ nothing }}| {{ nothing is defined }} {{ nothing is undefined }} {{ nothing|default('d') }} {{ ''|default('d') }}| {{ ''|default('d', true) }} {{ none|default('d') }} {{ nothing|d }}|
{{ nothing.x }}
{{ nothing['x'] }}
{{ nothing + 'x' }}
{{ none + 'x' }}
{{ none.x is defined }} {{ none['x'] is defined }} {{ 1 .x is defined }} {{ 'abc'.x is defined }} {{ [].x is defined }} {{ {}.x is defined }}
{{ 'abc'[0] }} {{ 'abc'[-1] }} {{ 'abc'[5] }}| {{ 'äöü'[1] }} {{ [1, 2, 3][-1] }} {{ [1][3] is defined }} {{ {'a': 1}['a'] }} {{ {'a': 1}['b'] is defined }} {{ {'a': {'b': 2}}.a.b }}
{{ 'abcdef'[1:3] }} {{ 'abcdef'[:-1] }} {{ 'abcdef'[::-1] }} {{ 'abcdef'[-2:] }} {{ 'abcdef'[::2] }} {{ 'abcdef'[4:1:-2] }} {{ [1, 2, 3][1:] }} {{ (1, 2, 3)[::-1] }} {{ 'äöü'[1:] }} {{ [1, 2][5:] }} {{ [1, 2, 3][-100:100] }} {{ [1,2,3][:none] }}
{{ [] }} {{ [1, 'a', none, true, 1.5, [2], {'k': 'v'}] }} {{ () }} {{ (1,) }} {{ (1, 'b') }} {{ {} }} {{ {'a': "it's", 'b': 'say "x"', 'c': '\'"'} }} {{ ['a\nb\t\\', 'é'] }}
{{ [1, 2,] }} {{ {'a': 1,} }} {{ 1, 2 }}
{{ 'A b'|lower }} {{ 'a B'|upper }} {{ 'hello wORLD x-y'|title }} {{ 'hELLO'|capitalize }} {{ 1|upper }} {{ none|lower }} {{ true|string|upper }}
{{ '  x '|trim }}| {{ 'xxaxx'|trim('x') }} {{ 5|trim }} {{ none|trim }} {{ nothing|trim }}| {{ '\u00a0\u2003x\u3000'|trim }}|
{{ 'abc'|length }} {{ 'äöü🙂'|length }} {{ [1, 2]|length }} {{ {'a': 1}|length }} {{ nothing|length }} {{ [1]|count }}
{{ none|length }}
{{ 5|length }}
{{ [1, 2, 3]|join(', ') }} {{ ['a', 1, none]|join }} {{ 'abc'|join('-') }} {{ {'a': 1, 'b': 2}|join(',') }} {{ []|join(',') }}| {{ nothing|join(',') }}|
{{ [3, 1]|first }} {{ [3, 1]|last }} {{ 'abc'|first }} {{ 'abc'|last }} {{ []|first is defined }} {{ {'a': 1, 'b': 2}|last }}
{{ 'abc'|list }} {{ {'a': 1}|list }} {{ (1, 2)|list }} {{ nothing|list }} {{ [1, 2, 3]|reverse|list }} {{ 'abc'|reverse }}
{{ {'b': 1, 'A': 2}|items|list }} {{ {'b': 1, 'A': 2, 'a': 0}|dictsort }} {% for k, v in {'x': 1, 'y': 2}.items() %}{{ k }}={{ v }}{{ ',' if not loop.last }}{% endfor %}
{{ {'a': 1}.get('a') }} {{ {'a': 1}.get('b') }} {{ {'a': 1}.get('b', 'z') }} {{ {'a': 1}.keys()|list }} {{ {'a': 1}.values()|list }}
{{ '5'|int }} {{ 'x'|int }} {{ 'x'|int(7) }} {{ 3.9|int }} {{ -3.9|int }} {{ ' 12 '|int }} {{ '1.5'|float }} {{ 'x'|float }} {{ 2|float }} {{ '3.7'|int }} {{ true|int }} {{ none|int }} {{ -5|abs }} {{ -1.5|abs }}
{{ 'a-b-c'|replace('-', '+') }} {{ 'aaa'|replace('a', 'b', 2) }} {{ 'aaa'.replace('a', 'b', 1) }} {{ 'abc'.replace('x', 'y') }}
{{ 'a b  c'.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ ' a b c '.split(none, 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'xAByABz'.split('AB') }} {{ 'a\nb\r\nc\n'.splitlines() }}
{{ '  x '.strip() }}| {{ '  x '.lstrip() }}| {{ '  x '.rstrip() }}| {{ 'xxyxx'.strip('x') }} {{ 'abcb'.rstrip('bc') }} {{ 'ääaä'.lstrip('ä') }} {{ '\n\nx'.lstrip('\n') }} {{ 'x'.strip('x') }}|
{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith('bc') }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith('') }} {{ 'abc'.startswith('abcd') }}
{{ 'aBc'.upper() }} {{ 'aBc'.lower() }} {{ 'hello world'.title() }} {{ "they're x1y"|title }} {{ "they're x1y".title() }} {{ 'hello World'.capitalize() }} {{ 'äbc'.find('b') }} {{ 'abc'.find('z') }} {{ 'banana'.count('an') }} {{ '-'.join(['a', 'b']) }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ '{}-{} {{}}'.format(1, 'a') }}
{{ '-'.join([1]) }}
{{ 1 is odd }} {{ 2 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ 1 is number }} {{ true is number }} {{ 'a' is string }} {{ 1.0 is float }} {{ 1 is integer }} {{ true is integer }} {{ true is boolean }} {{ true is true }} {{ 1 is true }} {{ false is false }}
{{ none is none }} {{ 0 is none }} {{ {} is mapping }} {{ [] is mapping }} {{ [] is iterable }} {{ 'a' is iterable }} {{ 1 is iterable }} {{ nothing is iterable }} {{ [] is sequence }} {{ {} is sequence }} {{ 'a' is sequence }} {{ none is sequence }} {{ raise_exception is callable }} {{ 1 is callable }}
{{ 1 is eq 1 }} {{ 1 is equalto(2) }} {{ 1 is ne 2 }} {{ 1 is lt 2 }} {{ 1 is le 1 }} {{ 2 is gt 1 }} {{ 1 is ge 2 }} {{ 1 is in [1, 2] }} {{ 3 is not in [1] }} {{ 1 is not none and 2 is defined }} {{ 'a' is not defined or true }} {{ 'x' if nothing is defined else 'y' }}
{{ [{'r': 'u', 'c': 1}, {'r': 'a', 'c': 2}]|selectattr('r', 'equalto', 'u')|list }} {{ [{'r': 1}, {}]|selectattr('r')|list }} {{ [{'r': 'u'}, {'r': 'a'}]|rejectattr('r', 'eq', 'u')|list }} {{ [1, 2, 3]|select('odd')|list }} {{ [0, 1]|reject|list }} {{ [1, none]|reject('none')|list }} {{ none|selectattr('x')|list }}
{{ [{'r': 'u'}, {'r': 'a'}]|map(attribute='r')|list }} {{ [{'r': {'x': 1}}]|map(attribute='r.x')|list }} {{ ['a', 'b']|map('upper')|join }} {{ [[1, 2], [3]]|map('join', '-')|list }} {{ [{}]|map(attribute='r', default='z')|list }}
{{ [3, 1, 2]|sort }} {{ ['b', 'A', 'a']|sort }} {{ [{'k': 2}, {'k': 1}]|sort(attribute='k') }} {{ [1, 3, 2]|sort(reverse=true) }} {{ [1, 2, 1]|unique|list }} {{ ['a', 'A', 'b']|unique|list }} {{ [2, 1]|min }} {{ [2, 1]|max }} {{ ['b', 'A']|min }} {{ []|min is defined }}
{{ {'a': [1, 2.5, none, true], 'b': {'c': "q\"\\\n\t\u0001é<&>'"}}|tojson }} {{ []|tojson }} {{ {}|tojson }} {{ 'x'|tojson }} {{ none|tojson }} {{ 1.0|tojson }} {{ (1, 2)|tojson }} {{ 'é🙂'|tojson(ensure_ascii=true) }}
{{ {'a': [1, {'b': []}], 'c': {}}|tojson(indent=2) }} {{ [1, [2]]|tojson(indent=4) }} {{ []|tojson(indent=2) }} {{ [1]|tojson(indent=0) }}
{{ nothing|tojson }}
{{ 'a\nb\n\nc'|indent }}| {{ 'a\nb'|indent(2, true) }}| {{ 'a\n\nb'|indent(2, blank=true) }}| {{ 'a\nb'|indent('> ') }}
{% for i in [1, 2, 3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}
{% for i in [] %}x{% else %}empty{% endfor %} {% for i in 'äb' %}{{ i }}.{% endfor %} {% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %} {% for i in nothing %}x{% endfor %}| {% for i in range(3) %}{{ i }}{% endfor %} {% for i in range(5, 0, -2) %}{{ i }}{% endfor %} {% for i in range(1, 4) %}{{ i }}{% endfor %}
{% for i in none %}x{% endfor %}
{% for i in 5 %}x{% endfor %}
{% for a, b in [[1, 2], [3, 4]] %}{{ a }}{{ b }}{% endfor %} {% for (a, b) in [[1, 2]] %}{{ a }}{{ b }}{% endfor %} {% for i in [1, 2, 3, 4] if i % 2 == 0 %}{{ loop.index }}:{{ i }}/{{ loop.length }} {% endfor %} {% for i in [1, 2] if i > 5 %}x{% else %}none{% endfor %}
{% for a, b in [[1, 2, 3]] %}x{% endfor %}
{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %} {% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %} {% for i in [1, 2] %}{% for j in [3, 4] %}{{ loop.index }}{{ i }}{{ j }}{{ loop.depth }} {% endfor %}{{ loop.index }}{% endfor %}
{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + i %}{{ x }}{% endfor %}{{ x }} {% if true %}{% set x = 9 %}{% endif %}{{ x }} {% for i in [1, 2] %}{% if loop.first %}{% set y = 'f' %}{% endif %}{{ y }}|{% endfor %}
{% set ns = namespace(a=1, b='x') %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}{% set ns.c = [1] %}{{ ns.c }}{{ ns.d is defined }} {% set m = namespace() %}{% set m.i = 0 %}{{ m.i }} {% set n = namespace({'k': 'v'}) %}{{ n.k }}
{% set d = {'a': 1} %}{% set d.a = 2 %}
{% set a, b = 1, 2 %}{{ a }}{{ b }} {% set t = 1, 2 %}{{ t }} {% set block %} in {{ a }} {% endset %}[{{ block }}] {{ block|length }} {{ dict(a=1, b='x') }}
{% macro hi(name, greeting='Hi', mark=name) %}{{ greeting }} {{ name }}{{ mark }}{% endmacro %}{{ hi('Bo') }} {{ hi('Bo', greeting='Yo') }} {{ hi(name='X', mark='!') }} {{ hi() }}| {{ hi('a')|upper }} {{ hi('a') ~ 1 }}
{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }} {% set g = 7 %}{% macro h() %}{{ g }}{% set g = 8 %}{{ g }}{% endmacro %}{{ h() }}{{ g }}
{% macro one(a) %}{{ a }}{% endmacro %}{{ one(1, 2) }}
{% macro one(a) %}{{ a }}{% endmacro %}{{ one(b=1) }}
{% if 0 %}a{% elif none %}b{% elif 'x' %}c{% else %}d{% endif %} {% if [] %}a{% elif {} %}b{% elif '' %}c{% else %}d{% endif %} {% if 'a' %}1{% endif %}
a{# comment #}b{#- c -#}  d {%- if true %} x {%- endif %} y{{- ' z ' -}} w
  {% if true %}
  in
  {% endif %}
out
x {% if true %} y {% endif %} z
  {%+ if true %} plus{% endif +%}
keep
{{ 'a' }}
newline after print
	{%- set a = 1 -%}
	trimmed {{ a -}}
   end
{% raw %}{{ not }} {% if %}{% endraw %} {%- raw -%} {{ x }} {%- endraw -%} tail
{{ strftime_now('%d %b %Y') }} {{ strftime_now("%Y-%m-%d %H:%M:%S %A %B %j %%") }}
{% generation %}a{{ 1 }}{% endgeneration %}b {{ raise_exception('no') if false else 'fine' }}
{{ raise_exception('stop') }}
{{ "tab\tnl\nquote\"back\\slash\x41\u00e9\U0001F642\q" }} {{ 'single\'s' }}
{{ {'a': 1}|safe }} {{ '<b>'|safe }} {{ 'x'|safe|length }} {{ messages|length }} {{ bos_token }}{{ eos_token }} {{ tools is none }} {{ add_generation_prompt }}
{{ 1 if true }}{{ 'a' if not true }}{{ [1, 2][0] if [1, 2] else 3 }} {{ not 1 == 2 }} {{ -1 + 2 }} {{ (-1)|abs }} {{ 5 - -3 }} {{ 2 + 3 ~ 4 }} {{ 'a' in 'abc' and 'b' in 'abc' }}
{{ 1 / 0 }}
{{ 'a' + 1 }}
{{ 'a' - 'b' }}
{{ [1] - [1] }}
{{ missing() }}
{{ 'a'['b'] is defined }} {{ [1]['b'] is defined }} {{ {'a': 1}[0] is defined }} {{ {'items': 1}['items'] }} {{ {'content': {'content': 1}}.content.content }}
"""


def snippets():
    """One snippet per line, but a line that starts with white space, or opens or closes a block alone, joins the last."""
    rows, joining = [], {"out", "keep", "newline after print", "in", "x {% if true %} y {% endif %} z"}
    for line in SNIPPETS.strip("\n").split("\n"):
        if rows and (line[:1] in " \t" or line in joining):
            rows[-1] += "\n" + line
        else:
            rows.append(line)
    # newlines around tags in every position, with each kind of white-space control
    for open_mark in ("", "-", "+"):
        for close_mark in ("", "-", "+"):
            rows.append(f"a\n  {{%{open_mark} if true {close_mark}%}}\n  b\n  {{%{open_mark} endif {close_mark}%}}  \n c\n")
            if "+" not in (open_mark, close_mark):
                rows.append(f"a\n  {{{{{open_mark} 'p' {close_mark}}}}}\n  b {{#{open_mark} c {close_mark}#}}\n d\n\n")
    return rows + ["\r\na\r\n{% if true %}\r\nb{% endif %}\rc\n", "", "\n", "\n\n", "text only", "{{ '}}' }}{{ '%}' }}", "{", "{a} }} %} #}", "{{ {'a': {'b': 1}}['a']['b'] }}"]


def write(path, rows):
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def main():
    rows = []
    for path in sorted((DATA / "templates").glob("*.jinja")):
        for messages in CONVERSATIONS:
            for variables in VARIABLES:
                prompt = messages != CONVERSATIONS[0]
                rows.append(dict(template=path.name, messages=messages, variables=variables, add_generation_prompt=prompt,
                                 **render(path.read_text(), messages, variables, prompt)))
    write(DATA / "templates.json", rows)
    write(DATA / "snippets.json", [dict(template=s, **render(s, CONVERSATIONS[0], {}, True)) for s in snippets()])


if __name__ == "__main__":
    main()
