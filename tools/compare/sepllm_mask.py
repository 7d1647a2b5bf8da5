"""SepLLM's rule as a dense mask, and tokens with separators: what its own trainer works with."""

import torch

# . , ? ! ; : space tab newline in the Pythia tokenizer.
SEPARATORS = [15, 13, 32, 2, 28, 27, 209, 186, 187]


def random_tokens(batch, seq, vocab_size, density, seed=1):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(vocab_size, (batch, seq), generator=generator)
    drawn = torch.tensor(SEPARATORS)[torch.randint(len(SEPARATORS), (batch, seq),
                                                   generator=generator)]
    return torch.where(torch.rand(batch, seq, generator=generator) < density, drawn, tokens)


def dense_mask(tokens, window, num_initial=3):
    """[B, 1, T, T], true where query i sees key j: j <= i and (j < a or separator or i - j < n)."""
    seq = tokens.shape[1]
    i = torch.arange(seq)[:, None]
    j = torch.arange(seq)[None, :]
    near = (i - j < window) | (j < num_initial)
    far = torch.isin(tokens, torch.tensor(SEPARATORS))
    return ((j <= i) & (near | far[:, None, :]))[:, None]
