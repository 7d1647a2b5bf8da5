"""A paced program: PyTorch's scaled_dot_product_attention, forward and backward."""

import argparse
import time

import torch

import paced
import sepllm_mask


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mask", choices=["causal", "dense_sep"], required=True)
    parser.add_argument("--seq", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--density", type=float, default=0.16)
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-warm-up", action="store_true", help="for cases that take a minute")
    return parser.parse_args()


class Attention:
    def __init__(self, args):
        self.dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[args.dtype]
        shape = (args.batch, args.heads, args.seq, args.head_dim)
        self.qkv = [torch.randn(shape).to(self.dtype).requires_grad_() for _ in range(3)]
        self.dout = torch.randn(shape).to(self.dtype)
        self.mask = None
        if args.mask == "dense_sep":
            tokens = sepllm_mask.random_tokens(args.batch, args.seq, 50304, args.density)
            self.mask = sepllm_mask.dense_mask(tokens, args.window)
        self.seconds = {"fwd_s": [], "bwd_s": []}

    def measure(self):
        for tensor in self.qkv:
            tensor.grad = None
        start = time.perf_counter()
        out = torch.nn.functional.scaled_dot_product_attention(
            *self.qkv, attn_mask=self.mask, is_causal=self.mask is None)
        middle = time.perf_counter()
        out.backward(self.dout)
        end = time.perf_counter()
        self.seconds["fwd_s"].append(middle - start)
        self.seconds["bwd_s"].append(end - middle)
        return [end - start]


def main():
    args = parse_args()
    paced.wait_for_turn()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    attention = Attention(args)
    if not args.no_warm_up:
        attention.measure()
        attention.seconds = {"fwd_s": [], "bwd_s": []}
    paced.serve(attention.measure, lambda: [{**vars(args), **attention.seconds,
                                             "torch": torch.__version__}])


if __name__ == "__main__":
    main()
