"""Layouts: the numbers of the specification, trees, pairs, the registry."""

from __future__ import annotations

import pytest

from tmor_fast.data.layout import (
    LAYOUTS,
    SkeletonLayout,
    find_layout,
    get_layout,
    pair_sides,
    register_layout,
)

# child <- parent of the released UNIK bone list
UNIK_BONES = "4<-3 3<-2 2<-1 1<-0 5<-2 7<-5 9<-7 6<-2 8<-6 10<-8 11<-4 13<-11 15<-13 12<-4 14<-12 16<-14"


def test_unik17_is_the_released_layout() -> None:
    layout = get_layout("unik17")
    assert set(layout.bones) == {tuple(map(int, bone.split("<-"))) for bone in UNIK_BONES.split()}
    assert layout.parents[0] == -1
    assert layout.root == 0
    assert layout.joint_names[layout.center] == "mid_hip" == layout.joint_names[4]
    assert [layout.joint_names[i] for i in (0, 2, 5, 6, 9, 16)] == [
        "head", "neck", "left_shoulder", "right_shoulder", "left_wrist", "right_ankle",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["unik17", "penn13", "bandai21", "coco17", "cmu31"])
def test_every_layout_pairs_each_left_joint_with_its_right_one(name: str) -> None:
    layout = LAYOUTS[name]
    assert layout.name == name
    assert layout.num_joints == int("".join(filter(str.isdigit, name)))
    paired = {joint for pair in layout.left_right for joint in pair}
    assert paired == {joint for pair in pair_sides(layout.joint_names) for joint in pair}
    for left, right in layout.left_right:
        assert layout.mirror[left] == right
        assert layout.mirror[right] == left
        # a mirrored skeleton is still a skeleton: partners hang from partners
        assert layout.parents[left] == layout.parents[right] or (
            layout.mirror[layout.parents[left]] == layout.parents[right]
        )
    assert [layout.mirror[j] for j in layout.mirror] == list(range(layout.num_joints))


def test_substitutes_try_the_mirror_then_the_ancestors() -> None:
    layout = get_layout("unik17")
    knee = layout.index("left_knee")
    order = [layout.joint_names[j] for j in layout.substitutes[knee]]
    assert order[:4] == ["left_knee", "right_knee", "left_hip", "mid_hip"]
    assert sorted(layout.substitutes[knee]) == list(range(17))


def test_from_edges_finds_root_parents_and_sides() -> None:
    names = ["hip", "Knee_L", "Knee_R", "lfoot", "rfoot", "spine"]
    layout = SkeletonLayout.from_edges("t", names, [(0, 1), (0, 2), (1, 3), (2, 4), (0, 5)])
    assert layout.parents == (-1, 0, 0, 1, 2, 0)
    assert layout.center == 0
    assert layout.left_right == ((1, 2), (3, 4))


def test_from_edges_turns_edges_away_from_the_root() -> None:
    # joint 2 is the only one that is no edge's second end
    layout = SkeletonLayout.from_edges("t", ["a", "b", "c"], [(1, 0), (2, 1)])
    assert layout.root == 2
    assert layout.parents == (1, 2, -1)


@pytest.mark.parametrize("edges", [[(0, 1)], [(0, 1), (1, 0)], [(0, 1), (1, 2), (2, 0)], [(0, 1), (1, 7)]])
def test_from_edges_refuses_what_is_no_tree(edges: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="edges"):
        SkeletonLayout.from_edges("t", ["a", "b", "c"], edges)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parents": (-1, 0)}, "3 joint names but 2 parents"),
        ({"parents": (-1, 2, 1)}, "cycle"),
        ({"parents": (-1, -1, 0)}, "exactly one root"),
        ({"parents": (-1, 0, 5)}, "joint numbers"),
        ({"joint_names": ("a", "a", "b")}, "distinct"),
        ({"center": 3}, "center 3"),
        ({"left_right": ((0, 1), (1, 2))}, "distinct joints"),
    ],
)
def test_a_malformed_layout_is_refused(changes: dict[str, object], message: str) -> None:
    fields: dict[str, object] = {"name": "t", "joint_names": ("a", "b", "c"), "parents": (-1, 0, 1), "center": 0}
    with pytest.raises(ValueError, match=message):
        SkeletonLayout(**{**fields, **changes})  # type: ignore[arg-type]


def test_dictionary_round_trip_and_its_errors() -> None:
    layout = get_layout("bandai21")
    assert SkeletonLayout.from_dict(layout.to_dict()) == layout
    with pytest.raises(ValueError, match="parents"):
        SkeletonLayout.from_dict({"name": "x", "joint_names": ["a"]})


def test_registry() -> None:
    with pytest.raises(ValueError, match=r"unknown skeleton layout 'nope'; known: .*penn13"):
        get_layout("nope")
    new = SkeletonLayout("registry-test", ("a", "b"), (-1, 0), 0)
    register_layout(new)
    register_layout(new)
    assert get_layout("registry-test") is LAYOUTS["registry-test"] == new
    assert get_layout(new) is new
    assert find_layout(["a", "b"]) == new
    assert find_layout(["b", "a"]) is None
    with pytest.raises(ValueError, match="different layout"):
        register_layout(SkeletonLayout("registry-test", ("a", "c"), (-1, 0), 0))
    with pytest.raises(TypeError):
        LAYOUTS["x"] = new  # type: ignore[index]


def test_index_lists_the_joints() -> None:
    with pytest.raises(ValueError, match=r"no joint 'tail'; it has head"):
        get_layout("unik17").index("tail")
