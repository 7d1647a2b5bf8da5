"""Compares a Hugging Face folder that Sepia wrote, as transformers reads it, with `sepia probe`.

Dense attention on both sides: transformers has no other for GPT-NeoX. Exits 0 when all agree or
when torch or transformers are absent (SKIP), 1 when something differs.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]

TEXTS = [
    "In the beginning God created the heaven and the earth.",
    "  two  spaces,\ttabs\tand\n\nnewlines \r\n",
    "don't; we'll 1234567 3.14 (a+b)*c != d",
    "caf\u00e9 na\u00efve e\u0301 \u6f22\u5b57 \U0001f600 \u0627\u0644",
    "<|endoftext|>between<|endoftext|>",
    "",
]


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("export", type=pathlib.Path, help="folder with config.json")
    parser.add_argument("--tokens", help="ids apart by spaces (default: 2 x 64 random ones)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32",
                        help="what both compute in, whatever the weights are stored in")
    parser.add_argument("--sepia", type=pathlib.Path, default=ROOT / "build/bin/sepia")
    return parser.parse_args()


def import_or_skip():
    try:
        import safetensors.torch
        import tokenizers
        import torch
        import transformers
    except ImportError as error:
        print(f"SKIP: {error}; pip install torch transformers safetensors tokenizers")
        sys.exit(0)
    return torch, transformers, safetensors.torch, tokenizers


def token_ids(args, torch, config):
    if args.tokens:
        return torch.tensor([[int(word) for word in args.tokens.split()]])
    length = min(64, config["max_position_embeddings"])
    generator = torch.Generator().manual_seed(1)
    return torch.randint(config["vocab_size"], (2, length), generator=generator)


def sepia_logits(args, safetensors_torch, tokens):
    with tempfile.TemporaryDirectory() as folder:
        given, probed = f"{folder}/tokens.safetensors", f"{folder}/probe.safetensors"
        safetensors_torch.save_file({"tokens": tokens}, given)
        subprocess.run([args.sepia, "probe", "--model", args.export, "--tokens", given,
                        "--out", probed, "--set", "model.attention.kind=FULL",
                        "--set", f"precision={args.precision.upper()}"], check=True)
        return safetensors_torch.load_file(probed)["logits"]


def check_logits(args, torch, transformers, safetensors_torch):
    config = json.loads((args.export / "config.json").read_text())
    tokens = token_ids(args, torch, config)
    ours = sepia_logits(args, safetensors_torch, tokens)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.precision]
    model = transformers.AutoModelForCausalLM.from_pretrained(args.export, torch_dtype=dtype)
    with torch.no_grad():
        theirs = model.eval()(tokens).logits.float()
    scale = theirs.abs().max().item()
    worst = (ours - theirs).abs().max().item()
    # Two branches a layer and the head: 2 L + 1 stages, each rounding by up to eps of this magnitude
    # with random signs, so eps sqrt(2 L + 1); times 4 for the worst of many logits.
    eps = torch.finfo(dtype).eps
    limit = 4 * eps * scale * (2 * config["num_hidden_layers"] + 1) ** 0.5
    print(f"logits     {tuple(ours.shape)} {args.precision}: largest difference {worst:.3g}, "
          f"limit {limit:.3g}, largest logit {scale:.3g}, "
          f"weights {config.get('torch_dtype', '?')}, transformers {transformers.__version__}")
    return worst <= limit


def check_tokenizer(args, tokenizers):
    path = args.export / "tokenizer.json"
    if not path.exists():
        print("tokenizer  none in the folder")
        return True
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    encoded = subprocess.run([args.sepia, "tokenizer", "encode", "--tokenizer", path, "--jsonl"],
                             input=lines, capture_output=True, text=True, check=True).stdout
    ours = [json.loads(line) for line in encoded.splitlines()]
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    theirs = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    equal = sum(a == b for a, b in zip(ours, theirs))
    print(f"tokenizer  {equal} of {len(TEXTS)} texts have the same ids, "
          f"tokenizers {tokenizers.__version__}")
    return ours == theirs


def main():
    args = parse_args()
    torch, transformers, safetensors_torch, tokenizers = import_or_skip()
    transformers.logging.set_verbosity_error()
    agree = [check_logits(args, torch, transformers, safetensors_torch),
             check_tokenizer(args, tokenizers)]
    print("agree" if all(agree) else "DIFFERENT")
    sys.exit(0 if all(agree) else 1)


if __name__ == "__main__":
    main()
