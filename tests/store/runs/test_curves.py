"""loss.png: which values stand where."""

from matplotlib.figure import Figure

from dino_cli.store.runs.curves import draw_loss


def step(number, **figures):
    return {"step": number, "loss": 4.0, "teacher_entropy": 3.0, "target_spread": 1.0, **figures}


def test_the_curves_of_a_run(tmp_path, monkeypatch):
    saved, real = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: saved.append(self) or real(self, *a, **k)
    )
    lines = [
        step(10),
        {"epoch": 0, "knn_top1": 50.0},
        step(20, loss=3.5, target_spread=float("inf")),
        step(30, loss=None),
        step(50, loss=3.0, teacher_entropy=2.5),
    ]
    draw_loss(lines, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = saved[0].axes
    shown = {line.get_label(): line for line in axes.lines}
    assert {name: str(line.get_ydata()) for name, line in shown.items()} == {
        "loss": "[4.  3.5 3. ]",
        "teacher entropy": "[3.  3.  2.5]",
        "target spread": "[ 1. nan  1.]",
    }
    assert all(line.get_xdata().tolist() == [10, 20, 50] for line in shown.values())
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_ylim()[0]) == ("step", "nats", 0)
    legend = axes.get_legend().get_window_extent()
    assert legend.y0 >= axes.get_window_extent().y1 - 1, "above the curves"


def test_a_run_without_a_step_has_no_curves(tmp_path):
    draw_loss([{"epoch": 0, "knn_top1": 50.0}, step(3, loss=None)], tmp_path / "loss.png")
    assert list(tmp_path.iterdir()) == []
