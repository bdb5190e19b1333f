#!/usr/bin/env python3
"""Records what independent tokenizers make of difficult texts, for tests/text/tokenizer_test.cc.

  python3 -m venv venv && venv/bin/pip install tokenizers==0.23.3 sentencepiece==0.2.3 gguf protobuf
  venv/bin/python tools/record_tokenizer_ids.py --smollm2 SmolLM2-135M-Instruct.Q4_1.gguf --gemma3 gemma-3-270m-q4_k_m.gguf

Writes into tests/data/tokenizer/:
  texts.json                the texts, shared by all recordings
  smollm2.json              SmolLM2's vocabulary as id pairs of its merges (Apache-2.0, from the GGUF)
  <family>.tokenizer.json   tiny vocabularies trained here with each family's published pre-split
  spm.vocab.json            a tiny SentencePiece BPE vocabulary trained here (tokens, scores, types)
  nfc.json                  random texts of marks, jamo and letters, and their Unicode normal form C
  <name>.ids.json           ids per text: Hugging Face tokenizers for the byte-level ones and llama2, sentencepiece for
                            spm and gemma3
"""
import argparse
import io
import json
import pathlib
import random
import unicodedata

import sentencepiece
from gguf import GGUFReader
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/tokenizer"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

TEXTS = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\n \n\n  \n", "a", " a", "  a", "a ", "a  ", "a\n", "\na",
    "Hello world", " Hello, world! ", "Hello   world", "The quick brown fox jumps over the lazy dog.",
    "I'm you're he'd we've they'll it's don't", "I'M YOU'RE HE'D WE'VE THEY'LL IT'S DON'T", "'s 'S 't x'ſ ''''ll' 'Ll 'lL",
    "0 1 12 123 1234 12345 1234567890 3.14159 1,000,000 0x1F ½ ² Ⅷ ٣ १२३ 10th", "abc123def456", "v1.2.3-rc4",
    "    indented\n\tline\r\n\t\tdeeper   \n\n\n\n\nfive newlines\r\rtwo returns\v\fend",
    "a" + " " * 40 + "b" + "\n" * 12 + "c" + "\t" * 9 + "d", "trailing spaces     ", "     leading", " \u00a0\u2003\u3000x\u1680\u180ey\u200bz\u2028\u2029\u0085w",
    "def f(x: int) -> str:\n    \"\"\"doc\"\"\"\n    return f\"{x!r:>10}\" if x != 0 else '\\n'  # 100%\n",
    "#include <vector>\nint main(){std::vector<int> v{1,2,3};for(auto&x:v)x<<=2;return v[0]&&!v[1]||~v[2];}\n",
    "https://example.org/a/b?c=d&e=%20f#g user@host.example C:\\dir\\file.txt $HOME/.config ~/x",
    "!@#$%^&*()_+-=[]{}|;':\",./<>?`~", "...!!!???---===___~~~", "“quotes” ‘single’ — em–dash… «guillemets» ¿qué? ¡sí!",
    "Größe straße ŒUVRE Ångström Čeština łódź İstanbul ıIiİ ǅ ﬁn", "Нещо на български, русский ёж", "Ελληνικά ΐ ΰ ά",
    "我想在apple工作1314151天～", "日本語のテキスト、カタカナとひらがな。", "한국어 텍스트 각가힣", "ภาษาไทยไม่มีช่องว่าง",
    "हिन्दी में लिखा हुआ पाठ क्षत्रिय", "العربية من اليمين إلى اليسار ١٢٣", "עברית עם ניקוד שָׁלוֹם", "தமிழ் বাংলা ગુજરાતી ਪੰਜਾਬੀ",
    "Cửa Việt tiếng Việt", "កាន់តែពិសេសអាចខលចេញ", "ᚠᛇᚻ ᏣᎳᎩ ⠓⠑⠇⠇⠕",
    "e\u0301 a\u030a o\u0308\u0304 \u1100\u1161\u11a8 q\u0307\u0323 n\u0303\u0303 \u212b \u2126 \u0958 \u0344 \ufb1d \u0f73",
    "Z̷̢̛a̸l̵g̶o̴ t̷e̸x̷t̶", "\u202eright-to-left override\u202c \u200f\u200e\u061c",
    "🙂 😀😁 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇨🇭🇯🇵 1️⃣ ☺️ 😶‍🌫️ 🤷🏻‍♀️", "🦙.cpp is 🔥🔥🔥!!!", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛 𠜎𠜱 \U0001f9ff\U0010fffd",
    "\ufffd\ufffe\uffff\ufeffBOM inside", "nul\u0000in\u0000side", "\u0001\u0002\u0005\u0007\b\u000e\u001b[31m\u007f\u0080\u009f",
    "\u0004\u0006\u0013\u0014\u0016\u001dx\u0004y", "▁underscore ▁▁ like▁this _ __", "<0x0A><0x41> <unk> <s>x</s>",
    "supercalifragilisticexpialidocious" * 6, "x" * 300, "ab" * 150, "aaaaaaaab" * 20, "=" * 100, "é" * 70, "漢" * 70, "🙂" * 40,
    "A" * 17 + "1" * 17 + " " * 17 + "!" * 17 + "\n" * 17 + "z",
    "Mixed: café naïve 東京2020 Ωmega-3 #tag @user 50% €9.99 £5 ¥100 ™®© x²+y³≠∞ → ⇒ ∀x∈ℝ",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|endoftext|><|endoftext|>a<|endoftext|> b", "<|im_start|", "<|im_<|im_end|>_x|>",
    "<start_of_turn>user\nHi<end_of_turn>\n<bos><eos>", "<h1>Title</h1>\n\n\n<table><tr><td>x</td></tr></table>\t\t\t.", "a > </b> >  < > <",
    "GPT-4o, Llama-3.1-8B & Qwen2.5—compare: 4,096 vs. 131072 tokens; (see §3.2).\n\n  * item\n  * item\n\n> quote\n\n```c\nint x;\n```\n",
]


def byte_level_vocab():
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def train_byte_level(name, pre_tokenizer, corpus, normalizer=None, ignore_merges=False, specials=(), bos=None):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=byte_level_vocab(), special_tokens=list(specials),
                                  show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])
    tokenizer.save(str(OUT / f"{name}.tokenizer.json"), pretty=False)
    return tokenizer


def record(name, encode):
    rows = [encode(text) for text in TEXTS]
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    (OUT / f"{name}.ids.json").write_text(f"[\n{lines}\n]\n")


def hf_encode(tokenizer, add_special=False):
    return lambda text: tokenizer.encode(text, add_special_tokens=add_special).ids


def gguf_fields(path):
    fields = GGUFReader(path).fields
    return {key.removeprefix("tokenizer.ggml."): field.contents() for key, field in fields.items() if key.startswith("tokenizer.ggml.")}


def smollm2(path, corpus):
    """The published tokenizer rebuilt from the GGUF's vocabulary and merges."""
    fields = gguf_fields(path)
    tokens, merges = fields["tokens"], [tuple(merge.split(" ", 1)) for merge in fields["merges"]]
    ids = {token: i for i, token in enumerate(tokens)}
    pairs = [[ids[a], ids[b]] for a, b in merges]
    joined = [ids[a + b] for a, b in merges]
    first = len(tokens) - len(merges)
    assert joined == list(range(first, len(tokens))), "the vocabulary is its first tokens and one token per merge"
    flat = ",".join(f"{a},{b}" for a, b in pairs)
    head = json.dumps({"tokens": tokens[:first], "types": fields["token_type"][:first]}, ensure_ascii=False, separators=(",", ":"))
    (OUT / "smollm2.json").write_text(head[:-1] + ',"merges":[' + flat + "]}\n")
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, fields["token_type"]) if k == 3])
    record("smollm2", hf_encode(tokenizer))


def sentencepiece_of(tokens, scores, types, unk_id, dummy_prefix):
    """The reference implementation, on a GGUF's pieces."""
    proto = sentencepiece_model_pb2.ModelProto()
    for i, (token, score, kind) in enumerate(zip(tokens, scores, types)):
        piece = proto.pieces.add()
        piece.piece, piece.score = token.replace(" ", "\u2581"), score
        piece.type = 2 if i == unk_id else kind if kind in (3, 4, 6) else 1
    proto.trainer_spec.model_type = 2
    proto.trainer_spec.byte_fallback = any(kind == 6 for kind in types)
    proto.trainer_spec.unk_id = unk_id
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = dummy_prefix
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = True
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def spm(corpus):
    """A tiny SentencePiece BPE vocabulary, also as the tokenizer.json that Llama 2's conversion makes of it."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in corpus for line in text.replace("\x00", "").split("\n") if line.strip()]),
        model_writer=model, model_type="bpe", vocab_size=1000, byte_fallback=True, character_coverage=0.98,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, user_defined_symbols=["<tag>"], minloglevel=2)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.getvalue())
    tokens = [p.piece for p in proto.pieces]
    scores = [p.score for p in proto.pieces]
    types = [int(p.type) for p in proto.pieces]
    (OUT / "spm.vocab.json").write_text(json.dumps({"tokens": tokens, "scores": scores, "types": types}, ensure_ascii=False,
                                                   separators=(",", ":")) + "\n")
    record("spm", sentencepiece_of(tokens, scores, types, 0, True).encode)

    ids = {token: i for i, token in enumerate(tokens)}
    normal = {t for t, k in zip(tokens, types) if k == 1}
    merges = sorted(((ids[t], a + b, a, b) for t in normal for i in range(1, len(t)) for a, b in [(t[:i], t[i:])]
                     if a in normal and b in normal), key=lambda m: (m[0], ids[m[2]], ids[m[3]]))
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[(a, b) for _, _, a, b in merges], unk_token="<unk>", fuse_unk=True,
                                     byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.add_tokens([AddedToken("<tag>", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])
    tokenizer.save(str(OUT / "llama2.tokenizer.json"), pretty=False)
    record("llama2", hf_encode(tokenizer, add_special=True))

    tokenizer.normalizer = None  # newer conversions: Metaspace instead of normalizers
    for scheme in ("first", "always"):
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=scheme == "always")
        tokenizer.save(str(OUT / f"metaspace_{scheme}.tokenizer.json"), pretty=False)
        record(f"metaspace_{scheme}", hf_encode(tokenizer))


def normal_forms():
    """Sequences of what composes, decomposes and reorders, and NFC by Python's unicodedata."""
    rng = random.Random(3)
    interesting = [c for c in map(chr, range(0x110000)) if not "\ud800" <= c <= "\udfff"
                   and (unicodedata.combining(c) or (unicodedata.decomposition(c) and "<" not in unicodedata.decomposition(c)))]
    starters = [chr(c) for c in (*range(0x41, 0x7b), *range(0x1100, 0x1113), *range(0xac00, 0xac40), 0x915, 0x9c7, 0x9be, 0xb47, 0xb56,
                                 0x1025, 0x102e, 0x11131, 0x11127, 0x3046, 0x3099)]
    jamo = [chr(c) for c in (*range(0x1161, 0x1176), *range(0x11a7, 0x11c3))]
    rows = []
    for _ in range(400):
        text = "".join(rng.choice(rng.choice([interesting, starters, jamo, interesting])) for _ in range(rng.randint(1, 8)))
        rows.append([text, unicodedata.normalize("NFC", text)])
    (OUT / "nfc.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--smollm2", required=True)
    parser.add_argument("--gemma3", required=True)
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "texts.json").write_text("[\n" + ",\n".join(json.dumps(text) for text in TEXTS) + "\n]\n")
    corpus = TEXTS + [text.upper() for text in TEXTS] + [text.title() for text in TEXTS]

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = lambda pattern: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    gpt2 = train_byte_level("gpt2", pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True), corpus, specials=specials)
    record("gpt2", hf_encode(gpt2))
    llama3 = train_byte_level("llama3", split(LLAMA3), corpus, ignore_merges=True, specials=("<|begin_of_text|>",) + specials,
                              bos="<|begin_of_text|>")
    record("llama3", hf_encode(llama3, add_special=True))
    qwen2 = train_byte_level("qwen2", split(QWEN2), corpus, normalizer=normalizers.NFC(), specials=specials)
    record("qwen2", hf_encode(qwen2))
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    record("smollm", hf_encode(train_byte_level("smollm", digits, corpus, specials=specials)))

    normal_forms()
    spm(corpus)
    smollm2(args.smollm2, corpus)
    gemma = gguf_fields(args.gemma3)
    processor = sentencepiece_of(gemma["tokens"], gemma["scores"], gemma["token_type"], 3, False)
    record("gemma3", processor.encode)


if __name__ == "__main__":
    main()
