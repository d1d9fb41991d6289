"""Live bytes are those of storages, from the operation that makes them until nobody holds them."""

import torch

from hierlm.plan.live_bytes import LiveBytes, storage_bytes


def test_views_cost_nothing_and_freed_storages_are_given_back():
    with LiveBytes() as live:
        a = torch.zeros(10, 10)
        b = a[3:].t().flatten()  # flatten copies: the transpose is not contiguous
        assert live.now == 400 + 280
        del a
        assert live.now == 280
        del b
    assert (live.now, live.peak) == (0, 680)


def test_a_peak_is_counted_from_the_restart():
    with LiveBytes() as live:
        del_me = torch.zeros(1000)
        del del_me
        live.restart()
        kept = torch.zeros(10)
    assert live.peak == kept.nbytes


def test_what_was_there_before_is_left_out():
    weight = torch.ones(5, requires_grad=True)
    with LiveBytes() as live:
        live.ignore([weight])
        view = weight.view(1, 5)
        assert live.now == 0 and view.shape == (1, 5)


def test_the_meta_device_counts_alike():
    def held(device: str) -> tuple[int, int]:
        with LiveBytes() as live:
            x = torch.ones(64, 32, device=device, requires_grad=True)
            y = (x @ x.t()).relu().sum()
            y.backward()
            return live.now, live.peak

    assert held("meta") == held("cpu")


def test_shared_storages_count_once():
    x = torch.zeros(8)
    assert storage_bytes([x, x[2:], torch.zeros(4)]) == 32 + 16
