"""Copying across a group's edge needs a layer on tokens (Hourglass, 2110.13711, sections 2.2 and A.1).

A text is chunks `L#L` after a start token, the letter one of two. With groups of three and no layer on tokens, the row
that predicts the second letter knows `#` and the chunks before: it can only guess.
"""

import torch

from hierlm import models

START, SEPARATOR, NUM_CHUNKS = 0, 3, 8


def texts(num: int, *, seed: int) -> torch.Tensor:
    letters = torch.randint(1, 3, (num, NUM_CHUNKS, 1), generator=torch.Generator().manual_seed(seed))
    chunks = torch.cat((letters, torch.full_like(letters, SEPARATOR), letters), dim=2).flatten(1)
    return torch.cat((torch.full((num, 1), START), chunks), dim=1)


def copied_share(hierarchy: str) -> float:
    """The share of chunks whose letter is copied right after training on copied letters alone.

    With the letters that nothing tells in the loss as well, half of the seeds stayed where one guesses.
    """
    part = {"arch": "hourglass", "vocab_size": 4, "hidden_dim": 32, "num_heads": 2, "ffn_dim": 64}
    part |= {"hierarchy": hierarchy, "shortening": "average", "upsampling": "repeat"}
    model = models.from_config({"model": part}, seed=1).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(120):
        batch = texts(32, seed=step)
        logits = model(batch[:, :-1])[0][:, 2::3]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 3::3].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unseen = texts(256, seed=10_000)
    with torch.no_grad():
        guesses = model.eval()(unseen[:, :-1])[0][:, 2::3].argmax(dim=-1)
    return (guesses == unseen[:, 3::3]).float().mean().item()


def test_without_layers_on_tokens_half_of_the_letters_are_right_and_with_one_all():
    assert abs(copied_share("0@1 2@3 0@1") - 0.5) < 0.05
    assert copied_share("1@1 2@3 0@1") > 0.95
    assert copied_share("0@1 2@3 1@1") > 0.95
