"""COCO's persons, heat-maps, and average precision beside COCO's own evaluation."""

from __future__ import annotations

import contextlib
import io
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from supertickets.data import DataConfig, ImageData, load_data
from supertickets.data.augment import vary
from supertickets.data.coco import COCO_SIGMAS
from supertickets.data.person import Person, PersonDecoder, to_image
from supertickets.errors import DataError, InputError
from supertickets.evaluate import keypoints, measure_split
from supertickets.evaluate.keypoints import average_precision, similarity
from supertickets.tasks import TASKS, decode_heatmaps, draw_heatmaps
from tests.pipeline.task_data import save, write_coco

PIXELS = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def random_joints(count: int, joints: int, height: int, width: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(count)
    inner = torch.rand(count, joints, 2, generator=rng) * 0.6 + 0.2
    places = inner * torch.tensor([width, height])
    visible = torch.randint(0, 3, (count, joints, 1), generator=rng).float()
    visible[:, 0] = 2
    return torch.cat([places, visible, torch.full_like(visible, 3.0)], 2)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_drawn_joint_is_found_again_to_a_hundredth_of_a_pixel(scale) -> None:
    joints = random_joints(6, 5, 64, 48)
    maps = draw_heatmaps(joints, image_size=(64, 48), size=(64 // scale, 48 // scale))
    found = decode_heatmaps(maps, image_size=(64, 48))
    seen = joints[:, :, 2] > 0
    assert (found[:, :, :2] - joints[:, :, :2])[seen].abs().max() < 0.01
    assert (maps[~seen] == 0).all()


def test_heatmaps_have_the_published_width() -> None:
    joints = torch.tensor([[[95.5, 127.5, 2.0, 1.0]]])  # between four pixels of the map
    (((line, *_),),) = (draw_heatmaps(joints, image_size=(256, 192), size=(64, 48))[:, :, 31:],)
    x = torch.arange(48) - 23.5
    expected = torch.exp(-(x**2 + 0.25) / (2 * 2.0**2))
    assert torch.allclose(line[0], expected, atol=1e-6)


def test_joints_without_label_add_nothing_to_loss_or_gradient() -> None:
    joints = random_joints(3, 4, 32, 32)
    joints[:, 1, 2] = 0
    maps = torch.randn(3, 4, 8, 8, requires_grad=True)
    losses = TASKS["keypoints"].losses(maps, joints, image_size=(32, 32))
    wanted = draw_heatmaps(joints, image_size=(32, 32), size=(8, 8))
    slow = [
        sum(
            float((maps.detach()[n, j] - wanted[n, j]).square().mean())
            if joints[n, j, 2] > 0
            else 0.0
            for j in range(4)
        )
        / 4
        / 2
        for n in range(3)
    ]
    assert losses.tolist() == pytest.approx(slow, rel=1e-5)
    losses.sum().backward()
    assert (maps.grad[:, 1] == 0).all()
    assert (maps.grad[:, 0] != 0).any()


def test_similarity_is_cocos_formula() -> None:
    area, sigma = 900.0, 0.05
    joints = torch.tensor([[[10.0, 10, 2, 0], [20, 10, 1, 0], [5, 5, 0, 0]]])
    joints[:, :, 3] = 2 * sigma * math.sqrt(area)
    found = torch.tensor([[[13.0, 14], [20, 10], [50, 50]]])
    one = math.exp(-25 / (2 * area * (2 * sigma) ** 2))
    assert float(similarity(found, joints)) == pytest.approx((one + 1) / 2)


def judged_by_pycocotools(oks_distances: np.ndarray, scores: np.ndarray) -> list[float]:
    """AP, AP50 and AP75 of answers that miss their only joint by some distances."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    truth, images, rows = [], [], []
    for number, (distance, score) in enumerate(zip(oks_distances, scores, strict=True), 1):
        images.append({"id": number, "height": 100, "width": 100})
        points = [0.0] * 51
        points[:3] = [50.0, 50.0, 2]
        truth.append(
            {
                "id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 2500.0,
                "bbox": [20, 20, 60, 60], "num_keypoints": 1, "keypoints": points,
            }
        )  # fmt: skip
        answer = [0.0] * 51
        answer[:3] = [50.0 + distance, 50.0, 1]
        rows.append(
            {"image_id": number, "category_id": 1, "keypoints": answer, "score": float(score)}
        )
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO()
        known.dataset = {"images": images, "annotations": truth, "categories": [{"id": 1}]}
        known.createIndex()
        judge = cocoeval.COCOeval(known, known.loadRes(rows), "keypoints")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return list(judge.stats[:3])


def test_average_precision_is_that_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    distances, scores = rng.exponential(2.5, 57), rng.random(57).round(2)
    oks = torch.from_numpy(np.exp(-(distances**2) / (2 * 2500 * (2 * COCO_SIGMAS[0]) ** 2)))
    ours = [
        average_precision(oks, torch.from_numpy(scores), 0.5 + 0.05 * step) for step in range(10)
    ]
    assert [sum(ours) / 10, ours[0], ours[5]] == pytest.approx(
        judged_by_pycocotools(distances, scores), abs=1e-9
    )


def test_perfect_answers_have_precision_one_and_misses_zero() -> None:
    joints = random_joints(9, 5, 64, 64)
    maps = draw_heatmaps(joints, image_size=(64, 64), size=(16, 16))

    class Given(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return maps if x.mean() == 0 else maps.flip(3)

    right = keypoints(Given(), [(torch.zeros(9, 3, 64, 64), joints)])
    assert (right.ap, right.ap50) == (1.0, 1.0)
    assert right.oks == pytest.approx(1.0, abs=1e-4)
    assert keypoints(Given(), [(torch.ones(9, 3, 64, 64), joints)]).ap50 < 0.2
    with pytest.raises(InputError, match="no joint is labelled"):
        keypoints(Given(), [(torch.zeros(9, 3, 64, 64), joints * torch.tensor([1, 1, 0, 1]))])
    with pytest.raises(InputError, match=r"expected heat-maps \[9, 3, h, w\]"):
        keypoints(Given(), [(torch.zeros(9, 3, 64, 64), joints[:, :3])])


# --- COCO -------------------------------------------------------------------------------


def coco(path, **options: object) -> ImageData:
    return load_data(DataConfig(name="coco", path=path, image_size=(64, 48), **PIXELS, **options))


def test_persons_are_cut_out_by_their_boxes(tmp_path) -> None:
    write_coco(tmp_path)
    data = coco(tmp_path)
    assert (data.task, data.num_classes, data.image_size) == ("keypoints", 17, (64, 48))
    assert data.augmentation == "scale-turn-flip"
    assert len(data.test) == 4  # two per image; crowds and persons without joints are left out
    assert len(data.train) + len(data.validation) == 6
    images = [
        {person.image_id for person in split.samples} for split in (data.train, data.validation)
    ]
    assert not images[0] & images[1]
    pixels, joints = next(iter(data.loader("test", batch_size=4)))
    assert pixels.shape == (4, 3, 64, 48)
    assert joints.shape == (4, 17, 4)
    content = json.loads((tmp_path / "annotations" / "person_keypoints_val2017.json").read_text())
    decoder = data.test.decoder
    wanted = [a for a in content["annotations"] if a["num_keypoints"]]
    for person, found, annotation in zip(data.test.samples, joints, wanted, strict=True):
        back = to_image(found[:, :2], decoder.placement(person))
        points = torch.tensor(annotation["keypoints"]).view(17, 3)
        seen = points[:, 2] > 0
        assert torch.allclose(back[seen], points[seen, :2].double(), atol=1e-3)
        # the box of 60 x 90 pixels, 1.25 times as large, is 64 pixels high
        step = 1.25 * 89 / 64
        distance = 2 * torch.tensor(COCO_SIGMAS) * math.sqrt(annotation["area"]) / step
        assert torch.allclose(found[:, 3], distance.float(), rtol=1e-4)


@pytest.mark.parametrize("turn", [0.0, 0.3, -0.7])
def test_a_bright_point_stays_under_its_joint(tmp_path, turn) -> None:
    pixels = np.zeros((120, 160, 3), dtype=np.uint8)
    spots = [(50, 40), (90, 70), (70, 55)]
    for x, y in spots:
        pixels[y - 1 : y + 2, x - 1 : x + 2] = 255
    file = save(tmp_path / "one.png", pixels)
    joints = tuple((float(x), float(y), 2.0) for x, y in spots)
    person = Person(str(file), 1, (120, 160), (40.0, 30.0, 60.0, 50.0), 3000.0, joints)
    decoder = PersonDecoder(128, 96, (0.05,) * 3)
    angle = (turn / math.radians(45) + 1) / 2
    draws = torch.tensor([[0.0 if turn else 0.9, 0, 0, 0.5, angle]], dtype=torch.float64)
    image, found = decoder(person, draws)
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(96.0), indexing="ij")
    for x, y, visible, _ in found.tolist():
        assert visible == 2
        near = (rows - y).square() + (columns - x).square() < 16
        weight = image[0].float() * near
        centre = [(weight * line).sum() / weight.sum() for line in (columns, rows)]
        assert centre == pytest.approx([x, y], abs=0.35)


def test_a_mirror_exchanges_left_and_right(tmp_path) -> None:
    write_coco(tmp_path)
    data = coco(tmp_path)
    images, joints = next(iter(data.loader("test", batch_size=4)))
    draws = torch.tensor([[0.5, 0.5, flip, 0.5, 0.5] for flip in (0.0, 0.9, 0.1, 0.7)])
    varied, moved = vary(
        images, joints, draws, "scale-turn-flip", task="keypoints", mirrored=data.mirrored
    )
    names = data.class_names
    for number, mirrored in enumerate((True, False, True, False)):
        assert torch.equal(varied[number], images[number].flip(2) if mirrored else images[number])
        for place, name in enumerate(names):
            if mirrored and name.startswith("left"):
                name = name.replace("left", "right")
            elif mirrored:
                name = name.replace("right", "left")
            x, y, visible, distance = joints[number, names.index(name)].tolist()
            expected = [47 - x if mirrored else x, y, visible, distance]
            assert moved[number, place].tolist() == pytest.approx(expected)


class Peaks(nn.Module):
    """Gives heat-maps for joints it was told, in the order in which batches come."""

    def __init__(self, joints: torch.Tensor, size: tuple[int, int]) -> None:
        super().__init__()
        self.joints, self.size, self.place = joints, size, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        told = self.joints[self.place : self.place + len(x)]
        self.place += len(x)
        return draw_heatmaps(told, image_size=self.size, size=self.size)


def test_cocos_evaluation_gives_one_for_the_truth_and_less_for_noise(tmp_path) -> None:
    pytest.importorskip("pycocotools.cocoeval")
    write_coco(tmp_path)
    data = coco(tmp_path)
    joints = torch.cat([joints for _, joints in data.loader("test", batch_size=3)])
    right = measure_split(Peaks(joints, (64, 48)), data, "test", batch_size=3)
    assert right["ap"] == pytest.approx(1.0)
    assert right["count"] == 4
    moved = joints.clone()
    moved[:2, :, 0] += 6
    wrong = measure_split(Peaks(moved, (64, 48)), data, "test", batch_size=3)
    assert wrong["ap"] < 0.75
    part = measure_split(
        Peaks(torch.cat([j for _, j in data.loader("validation", batch_size=9)]), (64, 48)),
        data,
        "validation",
        batch_size=9,
    )
    assert part["ap"] == pytest.approx(1.0)  # images of the train split do not count as missed


def edited(path, change) -> None:
    """Write a tiny set, and change the first person of its training annotations."""
    write_coco(path)
    file = path / "annotations" / "person_keypoints_train2017.json"
    content = json.loads(file.read_text())
    change(content, content["annotations"][0])
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c, a: a["keypoints"].__setitem__(0, 500), r"nose is at \(500, \d+\), outside its"),
        (
            lambda c, a: a["keypoints"].__setitem__(2, 3),
            "visibility of nose must be 0, 1 or 2, got 3",
        ),
        (lambda c, a: a["keypoints"].pop(), r"annotation 1: expected 51 numbers.*got 50"),
        (lambda c, a: a.update(id=0), "annotation 0: its id must be positive"),
        (lambda c, a: a.pop("bbox"), "annotation 1: KeyError: 'bbox'"),
        (
            lambda c, a: a.update(image_id=77),
            "annotation 1 is of image 77, which the file does not",
        ),
        (lambda c, a: c["categories"][0].update(keypoints=["nose"]), "17 keypoints is expected"),
        (lambda c, a: c.pop("images"), "a list 'images' is expected"),
        (lambda c, a: c.update(annotations=[]), "no person with a labelled joint"),
    ],
)
def test_impossible_annotations_are_named(tmp_path, change, words) -> None:
    edited(tmp_path, change)
    with pytest.raises(DataError, match=rf"person_keypoints_train2017\.json: .*{words}"):
        coco(tmp_path)


def test_an_image_of_another_size_than_annotated_is_named(tmp_path) -> None:
    write_coco(tmp_path)
    file = sorted((tmp_path / "val2017").iterdir())[1]
    save(file, np.zeros((60, 80, 3), dtype=np.uint8))
    with pytest.raises(DataError, match=rf"{file.name}: 60 x 80 pixels, expected 120 x 160 as ann"):
        list(coco(tmp_path).loader("test", batch_size=2))
    file.write_bytes(b"no image")
    with pytest.raises(DataError, match=rf"{file.name}: no readable image"):
        list(coco(tmp_path).loader("test", batch_size=2))
    (tmp_path / "annotations" / "person_keypoints_val2017.json").write_text("{")
    with pytest.raises(DataError, match="not readable as JSON"):
        coco(tmp_path)
