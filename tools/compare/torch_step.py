"""A paced program: whole training steps of Hugging Face's GPTNeoX in PyTorch.

forward, loss, backward, clipping, AdamW: what Sepia's step does. bf16 is autocast over fp32 weights,
as Sepia's bf16 has fp32 master weights; --bf16-weights keeps bf16 weights only, which is less work
and not the same training. The dense mask is made once, outside the measurement.
"""

import argparse
import time

import torch
import transformers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import memory
import paced
import sepllm_mask

# Width, layers, heads.
SIZES = {"pythia-14m": (128, 6, 4), "pythia-31m": (256, 6, 8), "pythia-70m": (512, 6, 8),
         "pythia-160m": (768, 12, 12), "pythia-410m": (1024, 24, 16), "pythia-1b": (2048, 16, 8)}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(SIZES), default="pythia-70m")
    parser.add_argument("--seq", type=int, default=2048)
    parser.add_argument("--micro", type=int, default=1)
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--bf16-weights", action="store_true")
    parser.add_argument("--attention", choices=["full", "sep"], default="full")
    parser.add_argument("--implementation", choices=["eager", "sdpa", "flex_attention"],
                        default="sdpa")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--density", type=float, default=0.16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    return parser.parse_args()


def gpt_neox(name, seq, implementation):
    width, layers, heads = SIZES[name]
    return GPTNeoXForCausalLM(GPTNeoXConfig(
        vocab_size=50304, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width, max_position_embeddings=max(2048, seq), use_cache=False,
        attn_implementation=implementation))


class Step:
    def __init__(self, args):
        self.autocast = args.dtype == "bf16" and not args.bf16_weights
        self.tokens = sepllm_mask.random_tokens(args.micro, args.seq, 50304, args.density)
        self.mask = None
        if args.attention == "sep":
            self.mask = sepllm_mask.dense_mask(self.tokens, args.window)
        self.model = gpt_neox(args.model, args.seq, args.implementation).train()
        if args.bf16_weights:
            self.model = self.model.to(torch.bfloat16)
        if args.checkpointing:
            self.model.gradient_checkpointing_enable()
        self.run = torch.compile(self.model) if args.compile else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, betas=(0.9, 0.95),
                                           weight_decay=0.1, fused=True)
        self.losses = []

    def measure(self):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            loss = self.run(self.tokens, attention_mask=self.mask, labels=self.tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss.item())
        return [time.perf_counter() - start]


def main():
    args = parse_args()
    paced.wait_for_turn()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    before = memory.resident()
    memory.reset_peak()
    step = Step(args)
    for _ in range(2):
        step.measure()
    peak = memory.peak_resident()
    paced.serve(step.measure, lambda: [{
        **vars(args), "measured_growth_bytes": peak - before, "peak_rss_bytes": peak,
        "losses": step.losses, "torch": torch.__version__,
        "transformers": transformers.__version__}])


if __name__ == "__main__":
    main()
