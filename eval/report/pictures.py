"""The pictures of the report: one scene in every view and by every run; the best and worst images of each domain."""

import base64
import hashlib
from pathlib import Path

from eval import schema
from eval.metrics import domains
from eval.report.charts import tabs
from eval.report.markup import Html, number, tag
from eval.results import EvaluatedRun
from pipeline.files.parse import MAX_IMAGE_BYTES, read_bytes


class Album:
    """Pictures by content: each JPEG is in the page once, however often it is shown."""

    def __init__(self) -> None:
        self.images: dict[str, Html] = {}
        self.num_bytes = 0

    def add(self, path: Path, size: list[int]) -> str:
        """The id to show a picture by."""
        content = read_bytes(path, MAX_IMAGE_BYTES)
        name = f"picture-{hashlib.sha256(content).hexdigest()[:20]}"
        if name not in self.images:
            data = base64.b64encode(content).decode()
            source = f"data:image/jpeg;base64,{data}"
            self.images[name] = tag("image", id=name, href=source, width=size[1], height=size[0])
            self.num_bytes += len(data)
        return name

    def definitions(self) -> Html:
        hidden = "position:absolute;overflow:hidden"
        return tag("svg", tag("defs", list(self.images.values())), width=0, height=0, aria_hidden="true", style=hidden)


MARKS = (
    ("truth", "true object"),
    ("right", "found"),
    ("missed", "missed"),
    ("false", "false alarm"),
    ("ignored", "ignored"),
)


def marks() -> Html:
    return tag("div", [tag("span", tag("i", class_=kind), name) for kind, name in MARKS], class_="marks")


def shot(
    album: Album, folder: Path, view: dict, caption: str, by: str | None, said: str = "what the detectors see"
) -> Html:
    """A picture with boxes: the true objects when `by` is None, none when it is "", else what the run `by` found."""
    h, w = view["size"]
    boxes = []
    if by is None:
        boxes = [
            box(item[:4], "truth" if item[5] != "ignored" else "ignored", item[4], h, w) for item in view["objects"]
        ]
        ignored = sum(item[5] == "ignored" for item in view["objects"])
        said = f"{len(view['objects']) - ignored} objects" + (f", {ignored} ignored" if ignored else "")
    elif by:
        for item in view["objects"]:
            if item[5] == "missed":
                boxes.append(box(item[:4], "missed", item[4], h, w))
        for item in view["detections"]:
            boxes.append(box(item[:4], item[6], f"{item[4]} {item[5]:.2f}", h, w))
        found = sum(item[6] == "right" for item in view["detections"])
        missed = sum(item[5] == "missed" for item in view["objects"])
        wrong = sum(item[6] == "false" for item in view["detections"])
        said = f"{found} found, {missed} missed, {wrong} false"
    name = album.add(folder / "pictures" / view["file"], view["size"])
    return framed(name, view["size"], boxes, caption, said, f"{domains.title(view['domain'])}, {file_name(view)}, ")


def framed(name: str, size: list[int], boxes: list[Html], caption: str, said: str, where: str = "") -> Html:
    """A picture of the album as a button that enlarges it."""
    h, w = size
    picture = tag("svg", tag("use", href=f"#{name}"), boxes, viewBox=f"0 0 {w} {h}", aria_hidden="true")
    text = tag("span", tag("b", caption), tag("span", said), class_="caption")
    return tag("button", picture, text, class_="shot", type="button", aria_label=f"{where}{caption}: {said}")


def file_name(view: dict) -> str:
    """The picture's file in the dataset that was packed; evaluations of before name its id alone."""
    return view.get("name") or f"image {view['id']}"


def box(place: list[float], kind: str, label: str, h: int, w: int) -> Html:
    x, y, width, height = (round(v * side, 1) for v, side in zip(place, (w, h, w, h), strict=True))
    edges = {"x": x, "y": y, "width": max(width, 1), "height": max(height, 1)}
    parts = [tag("rect", class_="under", **edges), tag("rect", class_="over", **edges)]
    letter = round(w / 80, 2)  # readable when enlarged, however small the stored picture is
    above, below = y - 0.35 * letter, y + height + letter
    parts.append(tag("text", label, x=x, y=round(above if y > 1.5 * letter else below, 1), font_size=letter))
    return tag("g", parts, class_=f"box {kind}")


def view_title(view: str) -> str:
    name, _, severity = view.rpartition("-")
    return f"{name.replace('_', ' ')}, severity {severity}" if name else "clean"


def pictures_section(runs: list[EvaluatedRun], album: Album) -> Html:
    saved = [(run, found) for run in runs if (found := read_pictures(run))]
    if not saved:
        return tag("p", "No pictures were saved with these evaluations; leave out --no-pictures.", class_="note")
    score = "; ".join(f"{run.name} {number(found['score'], 2)}" for run, found in saved)
    intro = tag(
        "p",
        f"Detections are drawn from the run's working score on ({score}). "
        "A picture opens when chosen; the arrow keys walk through all of them.",
        class_="faint",
    )
    parts: list = [marks(), intro, tag("h3", "The same scenes"), scenes(saved, album)]
    run, found = saved[-1]
    for kind, title in (("best", "Best images"), ("worst", "Worst images")):
        panels: list[tuple[str, str, Html]] = []
        for domain in domains.ordered(view["domain"] for view in found[kind]):
            views = [view for view in found[kind] if view["domain"] == domain]
            strips = [
                scene(
                    view,
                    [
                        shot(album, run.folder, view, "true objects", None),
                        shot(album, run.folder, view, run.name, run.name),
                    ],
                )
                for view in views
            ]
            panels.append((f"{kind}-{len(panels)}", domains.title(domain), tag("div", strips)))
        if panels:
            parts += [tag("h3", f"{title} of {run.name}, by domain"), tabs("Domain", panels)]
    return text_of(parts)


def scene(view: dict, shots: list[Html]) -> Html:
    return tag("div", tag("p", tag("code", file_name(view))), tag("div", shots, class_="strip"), class_="scene")


def scenes(saved: list[tuple[EvaluatedRun, dict]], album: Album) -> Html:
    """One strip a scene: the clean picture with the truth, what else the data has of it, the corrupted picture, then
    every run on the hardest view."""
    panels: dict[str, list[Html]] = {}
    main_run, main = saved[-1]
    for found_scene in main["scenes"]:
        if not found_scene["views"]:
            continue
        view = found_scene["views"][-1]
        strip = [
            shot(
                album,
                main_run.folder,
                found_scene["views"][0],
                "clean, with its objects" if len(found_scene["views"]) > 1 else "true objects",
                None,
            )
        ]
        clean = found_scene["views"][0]
        for beside in found_scene.get("beside", []):
            seen = {**clean, "file": beside["file"]}
            strip.append(shot(album, main_run.folder, seen, beside["name"], "", "beside the picture"))
        if len(found_scene["views"]) > 1:
            strip.append(shot(album, main_run.folder, view, view_title(view["view"]), ""))
        for run, found in saved:
            same = [
                other
                for one in found["scenes"]
                if (one["domain"], one["id"]) == (found_scene["domain"], found_scene["id"])
                for other in one["views"]
                if other["view"] == view["view"]
            ]
            if same:
                strip.append(shot(album, run.folder, same[0], run.name, run.name))
        panels.setdefault(found_scene["domain"], []).append(scene(view, strip))
    ordered = domains.ordered(panels)
    return tabs("Domain", [(f"scenes-{n}", domains.title(d), tag("div", panels[d])) for n, d in enumerate(ordered)])


def read_pictures(run: EvaluatedRun) -> dict | None:
    """pictures.json; a file name that leads elsewhere would put any file of this machine into the page."""
    found = run.read("pictures/pictures.json", schema.PICTURES)
    views = (
        [] if found is None else [*found["best"], *found["worst"], *(v for s in found["scenes"] for v in s["views"])]
    )
    files = [view["file"] for view in views]
    files += [beside["file"] for scene in (found or {"scenes": []})["scenes"] for beside in scene.get("beside", [])]
    for file in files:
        if Path(file).name != file or not (run.folder / "pictures" / file).is_file():
            raise ValueError(
                f"{run.folder / 'pictures' / 'pictures.json'} names the picture {file!r}, which is not there; "
                "remove it, or evaluate again"
            )
    return found


def text_of(parts: list) -> Html:
    return Html("".join(parts))
