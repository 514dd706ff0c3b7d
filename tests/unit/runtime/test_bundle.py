"""A bundle serves what was trained, says so to the last bit, and nothing damaged gets through."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pilotage.errors import BundleCorrupt, TrainingError
from pilotage.features.view import FeatureView
from pilotage.runtime.bundle import EXPECTED, read_bundle, verify_golden, write_bundle
from pilotage.runtime.bundle_cache import fetch
from pilotage.runtime.folder import publish_folder
from pilotage.runtime.probe import admit
from pilotage.runtime.scorer import Calibrator
from pilotage.spec import Serving
from pilotage.testing.bundles import make_bundle, tiny_rows, tiny_spec

SPEC = tiny_spec(with_state=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    return folder, make_bundle(folder, spec=SPEC)


@pytest.fixture
def copy(made: tuple[Path, str], tmp_path: Path) -> tuple[Path, str]:
    """A bundle to damage."""
    return Path(shutil.copytree(made[0], tmp_path / "copy")), made[1]


def rewrite(folder: Path, name: str, data: bytes) -> str:
    """Changes a file and vouches for it in the manifest, as somebody would who can write to the registry."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    text = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(text)
    return hashlib.sha256(text).hexdigest()


def test_the_same_inputs_give_the_same_bytes(made: tuple[Path, str], tmp_path: Path) -> None:
    assert make_bundle(tmp_path / "again", spec=SPEC) == made[1]


def test_a_bundle_carries_all_that_serving_needs(made: tuple[Path, str]) -> None:
    bundle = read_bundle(made[0], sha256=made[1])
    assert bundle.request == SPEC.request
    assert [feature.name for feature in bundle.features] == [feature.name for feature in SPEC.features]
    assert [feature.description for feature in bundle.features] == [feature.description for feature in SPEC.features]
    assert bundle.asof == SPEC.asof
    assert bundle.fingerprint == FeatureView(SPEC).fingerprint
    assert bundle.threshold == SPEC.kpi.cost.threshold
    assert bundle.label == "late"
    assert bundle.fallback.meta.eq(SPEC.fallback.rule)
    assert bundle.reference.columns == [feature.name for feature in SPEC.features]
    assert set(bundle.golden.columns) == {*SPEC.request_types(), *SPEC.state_types(), EXPECTED}
    assert bundle.manifest["training"] == {"rows": 200}


def test_it_holds_no_python(made: tuple[Path, str]) -> None:
    for path in made[0].iterdir():
        data = path.read_bytes()
        assert b"PLPYFN" not in data, path.name
        assert not data.startswith(b"\x80"), f"{path.name} is a pickle"


def test_what_it_scores_is_what_lightgbm_scores(made: tuple[Path, str]) -> None:
    import lightgbm

    bundle = read_bundle(made[0])
    rows = tiny_rows(SPEC, 500, seed=99)
    booster = lightgbm.Booster(model_str=(made[0] / "model.txt").read_text())
    raw = booster.predict(bundle.scorer.encode(rows), num_threads=1)
    assert bundle.scorer.raw(rows).tobytes() == np.asarray(raw).tobytes()
    assert bundle.score(rows).tobytes() == bundle.scorer.calibrator.apply(np.asarray(raw)).tobytes()


def test_one_row_at_a_time_gives_the_bits_of_all_rows_at_once(made: tuple[Path, str]) -> None:
    bundle = read_bundle(made[0])
    rows = tiny_rows(SPEC, 60, seed=5)
    single = np.concatenate([bundle.score(rows[number]) for number in range(rows.height)])
    assert single.tobytes() == bundle.score(rows).tobytes()


def test_any_flipped_bit_is_refused_and_the_process_lives(copy: tuple[Path, str]) -> None:
    folder, sha256 = copy
    chance = random.Random(20240101)
    for path in sorted(folder.iterdir()):
        right = path.read_bytes()
        for _ in range(40):
            wrong = bytearray(right)
            wrong[chance.randrange(len(wrong))] ^= 1 << chance.randrange(8)
            path.write_bytes(bytes(wrong))
            with pytest.raises(BundleCorrupt):
                read_bundle(folder, sha256=sha256)
        path.write_bytes(right)
    verify_golden(read_bundle(folder, sha256=sha256))


@pytest.mark.parametrize("cut", [0, 1, -1])
def test_a_file_of_another_length_is_refused_by_name(copy: tuple[Path, str], cut: int) -> None:
    folder, sha256 = copy
    data = (folder / "golden.parquet").read_bytes()
    (folder / "golden.parquet").write_bytes(data + b"x" if cut == 1 else data[:cut])
    with pytest.raises(BundleCorrupt, match=r"golden\.parquet"):
        read_bundle(folder, sha256=sha256)


def test_an_extra_a_missing_and_a_linked_file_are_corruption(copy: tuple[Path, str]) -> None:
    folder, sha256 = copy
    extra = folder / "run.py"
    extra.write_text("print()")
    with pytest.raises(BundleCorrupt, match=r"run\.py"):
        read_bundle(folder, sha256=sha256)
    extra.unlink()
    calibrator = folder / "calibrator.json"
    moved = calibrator.rename(folder.parent / "elsewhere.json")
    with pytest.raises(BundleCorrupt, match=r"calibrator\.json"):
        read_bundle(folder, sha256=sha256)
    calibrator.symlink_to(moved)
    with pytest.raises(BundleCorrupt, match=r"calibrator\.json"):
        read_bundle(folder, sha256=sha256)


def test_a_folder_that_is_not_there_is_a_corrupt_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleCorrupt, match="nowhere"):
        read_bundle(tmp_path / "nowhere")


def test_a_manifest_that_vouches_for_a_changed_file_is_another_bundle(copy: tuple[Path, str]) -> None:
    folder, sha256 = copy
    rewrite(folder, "decision.json", (folder / "decision.json").read_bytes().replace(b"0.2", b"0.9", 1))
    with pytest.raises(BundleCorrupt, match=r"manifest\.json has SHA-256"):
        read_bundle(folder, sha256=sha256)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("num_class=1", "num_class=3", 1),
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("split_feature=", "split_feature=9999999 ", 1),
        lambda text: text.replace("leaf_value=", "leaf_value=0.7 ", 1),
        lambda text: "",
    ],
    ids=["num_class", "half", "split_feature", "leaf_value", "empty"],
)
def test_a_model_that_would_abort_or_answer_differently_is_found_in_a_child(copy: tuple[Path, str], damage) -> None:
    """Even when every hash is right: LightGBM aborts on some of these, and accepts others."""
    folder, _ = copy
    text = (folder / "model.txt").read_text()
    assert damage(text) != text
    sha256 = rewrite(folder, "model.txt", damage(text).encode())
    with pytest.raises(BundleCorrupt):
        admit(folder, sha256=sha256)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("golden.parquet", lambda data: data[:-9] + b"PAR1PAR1!"),
        ("calibrator.json", lambda data: data.replace(b"1.1", b"9.1")),
        ("categories.json", lambda data: data.replace(b"north", b"south")),
        ("contract.json", lambda data: data.replace(b"integer", b"complex")),
        ("features.json", lambda data: data.replace(b"stock_level", b"stock_love1")),
        ("decision.json", lambda data: b"[]"),
    ],
)
def test_content_that_does_not_fit_together_is_refused_even_with_right_hashes(
    copy: tuple[Path, str], name: str, change
) -> None:
    folder, _ = copy
    data = (folder / name).read_bytes()
    assert change(data) != data
    sha256 = rewrite(folder, name, change(data))
    with pytest.raises(BundleCorrupt):
        admit(folder, sha256=sha256)


def test_a_bundle_from_before_advice_bands_and_personal_fields_serves_on(copy: tuple[Path, str]) -> None:
    folder, _ = copy
    contract, features, decision = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("contract", "features", "decision")
    )
    for field in contract:
        assert field.pop("personal") is False
    for words in features["words"]:
        assert words.pop("advice") == ""
    assert decision.pop("refer_between") is None
    for name, content in (("contract", contract), ("features", features), ("decision", decision)):
        sha256 = rewrite(folder, f"{name}.json", json.dumps(content).encode())

    bundle = admit(folder, sha256=sha256)
    assert bundle.request == SPEC.request
    assert bundle.refer_between is None
    assert {feature.advice for feature in bundle.features} == {""}


def test_advice_band_and_personal_fields_are_carried_along(tmp_path: Path) -> None:
    spec = tiny_spec(
        serving=Serving(refer_between=(0.25, 0.5)),
        features=tuple(feature.model_copy(update={"advice": "Wait."}) for feature in tiny_spec().features),
        request=tuple(field.model_copy(update={"personal": field.name == "order_id"}) for field in tiny_spec().request),
    )
    bundle = read_bundle(tmp_path / "new", sha256=make_bundle(tmp_path / "new", spec=spec))
    assert bundle.refer_between == (0.25, 0.5)
    assert {feature.advice for feature in bundle.features} == {"Wait."}
    assert [field.name for field in bundle.request if field.personal] == ["order_id"]


@pytest.mark.parametrize("band", [[0.5, 0.2], [0.5], [-1, 2], "wide", [None, 1]])
def test_a_band_that_is_none_of_probabilities_is_refused(copy: tuple[Path, str], band: object) -> None:
    folder, _ = copy
    decision = json.loads((folder / "decision.json").read_text())
    sha256 = rewrite(folder, "decision.json", json.dumps({**decision, "refer_between": band}).encode())
    with pytest.raises(BundleCorrupt):
        read_bundle(folder, sha256=sha256)


def test_admitting_a_good_bundle_gives_it(made: tuple[Path, str]) -> None:
    assert admit(made[0], sha256=made[1]).sha256 == made[1]


def test_training_that_saw_another_probability_is_told_so(tmp_path: Path, made: tuple[Path, str]) -> None:
    bundle = read_bundle(made[0])
    golden = bundle.golden.with_columns(pl.col(EXPECTED) + 1e-6)
    with pytest.raises(TrainingError, match="where training saw"):
        write_bundle(
            tmp_path / "skewed",
            spec=SPEC,
            model_text=(made[0] / "model.txt").read_text(),
            calibrator=bundle.scorer.calibrator,
            categories=bundle.scorer.categories,
            reference=bundle.reference,
            golden=golden,
            training={},
        )
    assert not (tmp_path / "skewed").exists()


def test_rows_of_other_features_are_told_so(tmp_path: Path, made: tuple[Path, str]) -> None:
    bundle = read_bundle(made[0])
    with pytest.raises(TrainingError, match="features 000000000000"):
        write_bundle(
            tmp_path / "other",
            spec=SPEC,
            model_text=(made[0] / "model.txt").read_text(),
            calibrator=Calibrator("none"),
            categories=bundle.scorer.categories,
            reference=bundle.reference,
            golden=bundle.golden.drop(EXPECTED),
            training={},
            fingerprint="0" * 64,
        )


def test_a_folder_that_can_not_be_written_whole_is_not_there(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with pytest.raises(TypeError):
        publish_folder(place, {"a": b"1", "b": "no bytes"})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_the_shelf_repairs_a_damaged_copy_and_keeps_a_good_one(made: tuple[Path, str], tmp_path: Path) -> None:
    source, sha256 = made
    place = fetch(source, sha256=sha256, bundles=tmp_path, model="tiny", version=3)
    assert place == tmp_path / "tiny" / "3"
    inode = place.stat().st_ino
    assert fetch(tmp_path / "gone", sha256=sha256, bundles=tmp_path, model="tiny", version=3).stat().st_ino == inode
    (place / "model.txt").write_text("damaged")
    repaired = fetch(source, sha256=sha256, bundles=tmp_path, model="tiny", version=3)
    verify_golden(read_bundle(repaired, sha256=sha256))
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["3"]


def test_a_damaged_copy_stays_out_when_there_is_nothing_to_repair_it_from(
    made: tuple[Path, str], tmp_path: Path
) -> None:
    source, sha256 = made
    place = fetch(source, sha256=sha256, bundles=tmp_path, model="tiny", version=1)
    (place / "model.txt").write_text("damaged")
    with pytest.raises(BundleCorrupt):
        fetch(tmp_path / "gone", sha256=sha256, bundles=tmp_path, model="tiny", version=1)
