from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.errors import ScalingError
from scaling.read import read_runs
from scaling.runs import Conventions
from tests.scaling.runs import real, write_csv

N, D, LOSS = [1e6, 2e6, 4e6], [1e9, 2e9, 3e9], [3.0, 2.5, 2.25]


def table(tmp_path: Path, **changes: Any) -> Path:
    return write_csv(tmp_path / "runs.csv", {"N": N, "D": D, "loss": LOSS} | changes)


def test_usual_names_need_no_mapping(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "a.csv", {"Params": N, "training_tokens": D, "Final Loss": LOSS, "granularity": [1, 2, 4]}
    )
    runs = read_runs(path)
    assert runs.n.tolist() == N and runs.d.tolist() == D and runs.loss.tolist() == LOSS and runs.g.tolist() == [1, 2, 4]
    assert runs.c.tolist() == [6 * n * d for n, d in zip(N, D, strict=True)]
    assert runs.conventions == Conventions("total", "6ND", heads=False)
    assert runs.source is not None and runs.source.file == "a.csv"
    assert runs.source.columns == {"n": "Params", "d": "training_tokens", "g": "granularity", "loss": "Final Loss"}
    assert runs.names(np.array([True, False, True])) == ["line 2", "line 4"]


def test_tokens_come_from_flops_where_there_are_none_and_the_result_says_so(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", {"Model Size": N, "Training FLOP": [6e15, 24e15, 72e15], "loss": LOSS})
    runs = read_runs(path)
    assert runs.d.tolist() == D and runs.conventions.compute == "given"
    assert [f.code for f in runs.findings] == ["d-from-c"]


def test_params_choose_the_column_where_a_table_has_both(tmp_path: Path) -> None:
    path = table(tmp_path, N=N, params_no_embed=[9e5, 19e5, 39e5])
    assert read_runs(path).n.tolist() == N
    assert read_runs(path, params="non-embedding").n.tolist() == [9e5, 19e5, 39e5]


def test_6nd_counts_heads_only_where_their_size_is_known(tmp_path: Path) -> None:
    path = table(tmp_path, G=[1, 2, 4], head=[10, 10, 10])
    with pytest.raises(
        ScalingError, match="only where their size is known; say which column has it with --map h=COLUMN"
    ):
        read_runs(path, heads=True)
    total = read_runs(path, columns={"h": "head"})
    assert total.conventions.heads
    assert (total.c / (6 * total.d) - total.n).tolist() == [0, 10, 30]
    bare = read_runs(path, columns={"h": "head"}, params="non-embedding")
    assert (bare.c / (6 * bare.d) - bare.n).tolist() == [10, 20, 40]


def test_given_flops_may_be_set_aside_for_6nd(tmp_path: Path) -> None:
    path = table(tmp_path, C=[1e16, 3e16, 8e16])
    assert read_runs(path).c.tolist() == [1e16, 3e16, 8e16]
    assert read_runs(path, compute="6ND").c.tolist() == [6 * n * d for n, d in zip(N, D, strict=True)]
    with pytest.raises(ScalingError, match="no column of FLOPs to take C from"):
        read_runs(table(tmp_path), compute="given")


def test_rows_of_one_run_are_one_cluster_and_exits_may_have_a_row_each(tmp_path: Path) -> None:
    path = table(tmp_path, name=["x", "y", "x"], l=[4, 4, 8], L=[8, 8, 8], size=[5e5, 1e6, 4e6])
    runs = read_runs(path, columns={"run": "name", "layer": "l", "layers": "L", "n_exit": "size"})
    assert runs.cluster.tolist() == [0, 1, 0]
    assert runs.exit_layer is not None and runs.exit_layer.tolist() == [4, 4, 8]
    assert runs.n_exit is not None and runs.n_exit.tolist() == [5e5, 1e6, 4e6] and runs.exit_weight is None


@pytest.mark.parametrize(
    ("columns", "asked", "problem"),
    [
        (
            {"size": N, "toks": D, "nll": LOSS},
            {},
            "no column for n (N, parameters) and d (D, training tokens, or c, FLOPs)",
        ),
        ({"size": N, "flops": D, "x": LOSS}, {}, 'say which: --map n="size" loss=COLUMN'),
        ({"size": N, "total_flop": D, "nll": LOSS}, {}, 'say which: --map n="size" c="total_flop" loss="nll"'),
        ({"size": N, "D": D, "loss": LOSS}, {}, "there are: 'size', 'D', 'loss'; say which: --map n=\"size\""),
        (
            {"params_no_embed": N, "D": D, "loss": LOSS},
            {},
            "'params_no_embed' counts no embedding: say --params non-emb",
        ),
        (
            {"N": N, "D": D, "val_loss": LOSS, "test_loss": LOSS},
            {},
            "may be any of the columns 'val_loss', 'test_loss'",
        ),
        ({"N": N, "D": D, "loss": LOSS}, {"n": "M"}, "no column 'M' for n; there are: 'N', 'D', 'loss'"),
        (
            {"N": N, "D": D, "loss": LOSS},
            {"m": "N"},
            "no column is mapped to 'm'; what there is: n (N, parameters); d (",
        ),
        ({"N": N, "D": D, "loss": [3, "x", 2]}, {}, "line 3: expected a number in column 'loss', got 'x'"),
        (
            {"N": [1e6, 0, -1], "D": D, "loss": LOSS},
            {},
            "n (column 'N') is positive and finite: line 3 has 0, line 4 has -1",
        ),
        (
            {"N": N, "D": [1e9, "nan", "inf"], "loss": LOSS},
            {},
            "d (column 'D') is positive and finite: line 3 has nan, line",
        ),
        ({"N": N, "C": [0, 1e16, 1e16], "loss": LOSS}, {}, "c (column 'C') is positive and finite: line 2 has 0"),
        ({"N": N, "D": ["", 1e9, 1e9], "loss": LOSS}, {}, "d (column 'D') is positive and finite: line 2 has nan"),
        (
            {"N": N, "D": D, "loss": [3, -1, 0]},
            {},
            "loss (column 'loss') is positive and finite: line 3 has -1, line 4 has 0",
        ),
        ({"N": N, "D": D, "loss": ["nan", "", "inf"]}, {}, "no row has a finite number in the loss's column 'loss'"),
        (
            {"N": N, "D": D, "G": [1, 1.5, 2], "loss": LOSS},
            {},
            "G counts exits, so it is a whole number from 1 on; not so in l",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(
    tmp_path: Path, columns: dict[str, Any], asked: dict[str, str], problem: str
) -> None:
    with pytest.raises(ScalingError) as refused:
        read_runs(write_csv(tmp_path / "runs.csv", columns), columns=asked)
    assert problem in str(refused.value)


def test_runs_without_a_finite_loss_are_left_out_and_named(tmp_path: Path) -> None:
    runs = read_runs(table(tmp_path, loss=["nan", 2.5, ""]))
    assert len(runs) == 1 and [f.code for f in runs.findings] == ["no-loss"]
    assert runs.findings[0].warning and runs.findings[0].text.endswith("line 2, line 4")


def test_columns_of_words_that_no_law_knows_of_are_named(tmp_path: Path) -> None:
    path = table(tmp_path, val=["c4", "pile", "c4"], name=["a", "a", "a"])
    assert ["val (c4, pile)" in f.text for f in read_runs(path).findings] == [True]
    assert not read_runs(path, where={"val": "c4"}).findings


def test_rows_that_may_be_of_one_run_are_asked_about(tmp_path: Path) -> None:
    path = table(tmp_path, run_name=["x", "x", "y"])
    (finding,) = [f for f in read_runs(path).findings if f.code == "shared-runs"]
    assert finding.warning and "3 rows have 2 values of 'run_name'" in finding.text
    assert [f.code for f in read_runs(path).findings] == ["shared-runs"], "it is no column of kinds of runs"
    assert not any(f.code == "shared-runs" for f in read_runs(path, columns={"run": "run_name"}).findings)
    exits = read_runs(table(tmp_path, size=[1e5, 2e5, 3e5]), columns={"n_exit": "size"})
    assert [f.code for f in exits.findings] == ["shared-runs"]
    assert not read_runs(table(tmp_path, run_name=["x", "y", "z"])).findings


def test_a_torn_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"N": 1e6, "D": 1e9, "loss": 3}\n{"N": 1e')
    with pytest.raises(ScalingError, match=r"a\.jsonl, line 2: "):
        read_runs(tmp_path / "a.jsonl")


def test_dropping_the_highest_losses_keeps_the_order_and_says_which(tmp_path: Path) -> None:
    runs = read_runs(table(tmp_path, loss=[2.25, 3.0, 2.5])).without_highest(1)
    assert runs.n.tolist() == [1e6, 4e6] and runs.findings[-1].text.endswith("the 1 highest losses: line 3")


def test_the_hash_is_of_the_numbers(tmp_path: Path) -> None:
    first, other = read_runs(table(tmp_path)), read_runs(table(tmp_path, loss=[3.0, 2.5, 2.26]))
    path = write_csv(tmp_path / "b.csv", {"loss": LOSS, "tokens": D, "parameters": N})
    assert first.sha256 == read_runs(path).sha256 != other.sha256


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("epoch-chinchilla/svg_extracted_data.csv", {}, 245),
        ("kyo-chinchilla-llm/df.csv", {}, 234),
        ("gadre-overtraining/gadre_final_losses.csv", {"where": {"val": "c4_val", "train_set": "rpj"}}, 35),
        ("gemstones/wandb_df_for_fitting_cool_end.jsonl", {"columns": {"n": "params_active_precise"}}, 199),
        ("porian/porian_optimal_pairs.csv", {"columns": {"d": "t"}, "where": {"hparams": "tuned"}}, None),
    ],
)
def test_public_tables_are_read(name: str, options: dict[str, Any], count: int | None) -> None:
    runs = read_runs(real(name), **options)
    assert len(runs) == (count or len(runs)) and np.isfinite(runs.c).all()
