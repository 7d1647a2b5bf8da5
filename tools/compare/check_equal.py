"""Do Sepia and Hugging Face compute the same loss from one folder, dense and with SepLLM's mask?

Exits 0 when both agree. fp32, so that only the order of sums differs.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import safetensors.torch
import torch

import paced
import sepllm_mask
import torch_step


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pythia-14m")
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--sepia", type=pathlib.Path, default=paced.ROOT / "build/bin/sepia")
    return parser.parse_args()


def sepia_loss(args, folder, tokens, kind):
    given, probed = f"{folder}/tokens.safetensors", f"{folder}/probe.safetensors"
    targets = tokens.roll(-1, dims=1)
    safetensors.torch.save_file({"tokens": tokens, "targets": targets.contiguous()}, given)
    subprocess.run([args.sepia, "probe", "--model", folder, "--tokens", given, "--out", probed,
                    "--set", f"model.attention.kind={kind}",
                    "--set", f"model.attention.window={args.window}"],
                   check=True, stdout=subprocess.DEVNULL)
    return safetensors.torch.load_file(probed)["loss"].item(), targets


def main():
    args = parse_args()
    torch.manual_seed(1)
    tokens = sepllm_mask.random_tokens(2, args.seq, 50304, density=0.16)
    model = torch_step.gpt_neox(args.model, args.seq, "sdpa").eval()
    agree = True
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.save_pretrained(folder)
        for kind, mask in [("FULL", None), ("SEP", sepllm_mask.dense_mask(tokens, args.window))]:
            ours, targets = sepia_loss(args, folder, tokens, kind)
            logits = model(tokens, attention_mask=mask).logits
            theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1),
                                                       targets.flatten()).item()
            # Means of losses near ln V from fp32 sums of hundreds of terms.
            agree &= abs(ours - theirs) < 1e-6 * theirs
            print(f"{kind:<5} Sepia {ours:.7f}  Hugging Face {theirs:.7f}")
    print("agree" if agree else "DIFFERENT")
    sys.exit(0 if agree else 1)


if __name__ == "__main__":
    main()
