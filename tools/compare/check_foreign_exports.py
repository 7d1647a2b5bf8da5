#!/usr/bin/env python3
"""Opens what `sepia convert` wrote for others with their own software and compares it bit for bit.

  check_foreign_exports.py --hf FOLDER [--neox FOLDER] [--gguf FILE]

--hf is the same model as a Hugging Face folder of fp32 safetensors (sepia convert --to hf). NeoX layer
files are loaded by torch.load(weights_only=True), GGUF files by the gguf package. A GGUF file is also
run by llama.cpp (package llama-cpp-python) beside transformers, greedily, token by token. Parts whose
packages are missing print SKIP. Exit code 0: nothing differs.
"""
import argparse
import glob
import importlib.util
import json
import os
import re
import sys


def have(*modules):
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    if missing:
        print(f"SKIP: Python has no {', '.join(missing)}")
    return not missing


def read_hf(folder):
    from safetensors.numpy import load_file

    tensors = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.safetensors"))):
        tensors.update(load_file(path))
    return tensors


def check_neox(hf, folder):
    import torch

    step = os.path.join(folder, open(os.path.join(folder, "latest")).read().strip())
    torch.load(os.path.join(step, "mp_rank_00_model_states.pt"), weights_only=False)
    layers = 1 + max(int(m.group(1)) for m in map(re.compile(r".*layers\.(\d+)\.").match, hf) if m)
    compared = 0
    for path in sorted(glob.glob(os.path.join(step, "layer_*"))):
        index = int(os.path.basename(path)[6:8])
        for key, tensor in torch.load(path, weights_only=True).items():
            if index == 0:
                name = "gpt_neox.embed_in.weight"
            elif index == layers + 4:
                name = "embed_out.weight"
            elif index == layers + 3:
                name = "gpt_neox.final_layer_norm." + key.split(".")[1]
            else:
                name = f"gpt_neox.layers.{index - 2}.{key}"
            assert torch.equal(tensor, torch.from_numpy(hf[name]).to(tensor.dtype)), name
            compared += 1
    assert compared == len(hf), (compared, len(hf))
    print(f"ok: {compared} tensors of {step} by torch {torch.__version__}")


def check_gguf(hf, path, heads):
    import numpy
    from gguf import GGUFReader

    blocks = {"attn_norm": "input_layernorm", "attn_qkv": "attention.query_key_value",
              "attn_output": "attention.dense", "ffn_norm": "post_attention_layernorm",
              "ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h"}
    whole = {"token_embd.weight": "gpt_neox.embed_in.weight", "output.weight": "embed_out.weight",
             "output_norm.weight": "gpt_neox.final_layer_norm.weight",
             "output_norm.bias": "gpt_neox.final_layer_norm.bias"}
    reader = GGUFReader(path)
    assert len(reader.tensors) == len(hf), (len(reader.tensors), len(hf))
    for tensor in reader.tensors:
        if tensor.name in whole:
            wanted = hf[whole[tensor.name]]
        else:
            _, index, module, part = tensor.name.split(".")
            wanted = hf[f"gpt_neox.layers.{index}.{blocks[module]}.{part}"]
            if module == "attn_qkv":
                parts = wanted.reshape(heads, 3, wanted.shape[0] // (3 * heads), *wanted.shape[1:])
                wanted = numpy.concatenate(
                    [parts[:, i].reshape(-1, *wanted.shape[1:]) for i in range(3)])
        data = numpy.asarray(tensor.data)
        if data.dtype == numpy.uint8:  # bf16
            bits = data.reshape(-1).view(numpy.uint16).astype(numpy.uint32) << 16
            data = bits.view(numpy.float32)
            assert numpy.allclose(data, wanted.reshape(-1), rtol=2**-8, atol=0), tensor.name
        else:
            assert numpy.array_equal(data.reshape(wanted.shape), wanted.astype(data.dtype)), tensor.name
    print(f"ok: {len(reader.tensors)} tensors of {path} by the gguf package")


def check_llama(folder, path, steps=48):
    """llama.cpp must choose the tokens that transformers chooses, from the same logits up to llama.cpp's
    own arithmetic: it computes GeLU by the tanh formula, from a table in fp16, which moves each of a
    layer's activations by up to 5e-4 + 2^-11 of its size."""
    import numpy
    import torch
    from llama_cpp import Llama
    from transformers import GPTNeoXForCausalLM

    theirs = GPTNeoXForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    llama = Llama(model_path=path, n_ctx=256, n_batch=256, logits_all=True, verbose=False)
    vocabulary = llama.n_vocab()
    assert vocabulary == theirs.config.vocab_size, (vocabulary, theirs.config.vocab_size)
    ids = [int(i) for i in numpy.random.default_rng(1).integers(0, vocabulary, size=8)]
    worst = 0.0
    for _ in range(steps):
        llama.reset()
        llama.eval(ids)
        ours = numpy.asarray(llama.scores[len(ids) - 1][:vocabulary], dtype=numpy.float64)
        with torch.no_grad():
            wanted = theirs(torch.tensor([ids])).logits[0, -1].double().numpy()
        worst = max(worst, float(numpy.abs(ours - wanted).max() / wanted.std()))
        best = int(wanted.argmax())
        runner_up = float(numpy.partition(wanted, -2)[-2])
        apart = (wanted[best] - runner_up) / wanted.std()
        assert int(ours.argmax()) == best or apart < 1e-2, (len(ids), best, int(ours.argmax()), apart)
        ids.append(best)
    assert worst < 1e-2, f"logits differ by {worst:.1e} of their spread"
    print(f"ok: {steps} greedy tokens of {path} by llama.cpp, logits within {worst:.1e} of their spread")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hf", required=True)
    parser.add_argument("--neox")
    parser.add_argument("--gguf")
    options = parser.parse_args()
    if not have("safetensors", "numpy"):
        return 0
    hf = read_hf(options.hf)
    if options.neox and have("torch"):
        check_neox(hf, options.neox)
    if options.gguf and have("gguf"):
        with open(os.path.join(options.hf, "config.json")) as config:
            check_gguf(hf, options.gguf, json.load(config)["num_attention_heads"])
    if options.gguf and have("llama_cpp", "torch", "transformers"):
        check_llama(options.hf, options.gguf)
    return 0


if __name__ == "__main__":
    sys.exit(main())
