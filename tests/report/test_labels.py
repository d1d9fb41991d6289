"""Names beside points."""

from hierlm.report.labels import label_sides


def test_points_on_top_of_each_other_get_different_sides() -> None:
    sides = label_sides([(0.5, 0.5, "first"), (0.5, 0.52, "second"), (0.5, 0.48, "third")])
    assert len(set(sides)) == 3


def test_a_name_is_not_cut_at_the_edge() -> None:
    assert label_sides([(1.0, 0.5, "a-rather-long-name")]) == ["middle left"]
    assert label_sides([(0.0, 0.5, "a-rather-long-name")]) == ["middle right"]
