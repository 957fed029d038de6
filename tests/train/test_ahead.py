from pipeline.loading.loader import open_loader
from pipeline.packed.reader import PackedDataset
from pipeline.views import ViewConfig, ViewMaker
from train.ahead import views_ahead


def test_the_next_views_are_started_first_and_the_place_is_that_of_those_handed_out(packed):
    data, maker, started = PackedDataset(packed), ViewMaker(ViewConfig(corruptions=()), threads=1), []
    start = maker.start

    def note_and_start(batch, draw):
        started.append(draw)
        return start(batch, draw)

    maker.start = note_and_start
    with open_loader(data, 4, name="cpu", threads=1) as loader:
        expected = [(next(loader).ids_B.tolist(), loader.state_dict()) for _ in range(3)]
    with open_loader(data, 4, name="cpu", threads=1) as loader:
        seen, begun = [], []
        for views, place in views_ahead(loader, maker, range(3, 6)):
            seen.append((views.ids_B.tolist(), place))
            begun.append(list(started))
        assert loader.state_dict() == place  # nothing beyond the last step was taken
    assert seen == expected
    assert begun == [[3, 4], [3, 4, 5], [3, 4, 5]]
