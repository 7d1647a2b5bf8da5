"""Writes tokenizer.json and cases.jsonl beside this file; see README.md."""

import collections
import json
import os
import unicodedata

HERE = os.path.dirname(os.path.abspath(__file__))
SPECIAL = ["<|endoftext|>", "<|padding|>"]
SPACES = {ord(c) for c in "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"}
SPACES |= set(range(0x2000, 0x200B))
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"]


def byte_alphabet():
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = {b: chr(b) for b in plain}
    for b in range(256):
        if b not in symbols:
            symbols[b] = chr(256 + len(symbols) - len(plain))
    return symbols


SYMBOL = byte_alphabet()
BYTE = {s: b for b, s in SYMBOL.items()}


def kind(c):
    if ord(c) in SPACES:
        return "space"
    category = unicodedata.category(c)[0]
    return {"L": "letter", "N": "number"}.get(category, "other")


def words(text):
    """GPT-2's pattern by hand: 's|'t|'re|'ve|'m|'ll|'d| ?L+| ?N+| ?other+|space+(?!nonspace)|space+"""
    i = 0
    while i < len(text):
        short = next((s for s in CONTRACTIONS if text.startswith(s, i)), None)
        if short is not None:
            yield short
            i += len(short)
            continue
        first = i + 1 if text[i] == " " and i + 1 < len(text) else i
        if kind(text[first]) == "space":
            end = i
            while end < len(text) and kind(text[end]) == "space":
                end += 1
            if end < len(text) and end - i > 1:
                end -= 1
        else:
            end = first
            while end < len(text) and kind(text[end]) == kind(text[first]):
                end += 1
        yield text[i:end]
        i = end


def to_symbols(word):
    return [SYMBOL[b] for b in word.encode("utf-8")]


def merged(symbols, pair):
    out, i = [], 0
    while i < len(symbols):
        if symbols[i : i + 2] == list(pair):
            out.append(pair[0] + pair[1])
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return out


def train(text, size):
    vocab = {t: i for i, t in enumerate(SPECIAL)}
    for symbol in sorted(BYTE):
        vocab[symbol] = len(vocab)
    counts = collections.Counter(words(unicodedata.normalize("NFC", text)))
    split = {w: to_symbols(w) for w in counts}
    merges = []
    while len(vocab) < size:
        pairs = collections.Counter()
        for word, symbols in split.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += counts[word]
        best = min(pairs, key=lambda p: (-pairs[p], vocab[p[0]], vocab[p[1]]))
        merges.append(best)
        vocab.setdefault(best[0] + best[1], len(vocab))
        split = {w: merged(s, best) for w, s in split.items()}
    return vocab, merges


def encode(text, vocab, merges, added):
    def cut(text, tokens, rest):
        i = start = 0
        while i < len(text):
            found = max((t for t in tokens if text.startswith(t, i)), key=len, default=None)
            if found is None:
                i += 1
                continue
            yield from rest(text[start:i])
            yield tokens[found]
            i = start = i + len(found)
        yield from rest(text[start:])

    def by_words(text):
        for word in words(text):
            symbols = to_symbols(word)
            while True:
                ranks = [merges.index(p) for p in zip(symbols, symbols[1:]) if p in merges]
                if not ranks:
                    break
                symbols = merged(symbols, merges[min(ranks)])
            yield from (vocab[s] for s in symbols)

    def piece(text):
        return cut(unicodedata.normalize("NFC", text), added, by_words)

    return list(cut(text, {t: vocab[t] for t in SPECIAL}, piece))


def decode(ids, texts, skip):
    data = b""
    for i in ids:
        text = texts.get(i, "")
        if skip and text in SPECIAL:
            continue
        data += bytes(BYTE[c] for c in text) if all(c in BYTE for c in text) else text.encode()
    return data.decode("utf-8", errors="replace")


CASES = [
    "",
    "a",
    "The river keeps its own time.",
    "We don't know what they'll say, but it's what I'd've done; we're sure. DON'T!",
    " leading and trailing ",
    "two  spaces,   three,    four,     five,         nine",
    "tab\tand\nnewline\n\n\nthen  \n  indented",
    "   x",
    "x   ",
    "numbers 12 345 6789 and 1/2 \u00bd \u2168 \u0663\u0664",
    "caf\u00e9 and cafe\u0301 are one word; o\u0308\u0323 is \u1ecd\u0308",
    "\u1112\u1161\u11ab\u1100\u1173\u11af \ud55c\uae00",
    "\u212b \u2126 \u0958 \u1e9b\u0323",
    "<|endoftext|>",
    "one<|endoftext|>two <|padding|><|endoftext|> three",
    "e<|endoftext|>\u0301",
    "<|endoftext| >",
    "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3002 \u4e2d\u6587",
    "\u0420\u0435\u043a\u0430 \u0442\u0435\u0447\u0451\u0442. \u039f \u03c0\u03bf\u03c4\u03b1\u03bc\u03cc\u03c2",
    "\U0001f30a\U0001f469\u200d\U0001f680 waves \U0001f1eb\U0001f1f7",
    "zero\u200bwidth \u00a0nbsp \u2028line \u3000wide \u0085nel \x1cfs \x1f us \ufeffbom",
    "quotes \u201clike this\u201d and \u2018that\u2019s\u2019 \u2014 dashes",
    "\x00\x01\x7f control",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "river river river riverriver RIVER",
    "code: for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }  // ok",
    "x\u0300\u0316\u0300\u0316 marks out of order",
]


def main():
    with open(os.path.join(HERE, "training_text.txt"), encoding="utf-8", newline="") as f:
        vocab, merges = train(f.read(), 384)
    added = {" " * n: len(vocab) + i for i, n in enumerate([4, 3, 2])}
    texts = {i: t for t, i in [*vocab.items(), *added.items()]}

    def added_token(text, token_id, special):
        return {"id": token_id, "content": text, "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": not special, "special": special}

    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added_token(t, vocab[t], True) for t in SPECIAL]
        + [added_token(t, i, False) for t, i in added.items()],
        "normalizer": {"type": "NFC"}, "pre_tokenizer": level, "post_processor": level,
        "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": [" ".join(m) for m in merges]},
    }
    with open(os.path.join(HERE, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(tokenizer, f, ensure_ascii=False, indent=2)
        f.write("\n")
    with open(os.path.join(HERE, "cases.jsonl"), "w", encoding="utf-8") as f:
        for text in CASES:
            ids = encode(text, vocab, merges, added)
            row = {"text": text, "ids": ids, "decoded": decode(ids, texts, False),
                   "skip": decode(ids, texts, True)}
            f.write(json.dumps(row) + "\n")


main()
