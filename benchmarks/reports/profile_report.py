"""The report of profile results: the comprehensive figures as PNG, and one HTML page."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.output.files import write_atomically
from benchmarks.reports.plots import png
from benchmarks.reports.profile_devices_figures import comm_figure, several_devices_figure
from benchmarks.reports.profile_figures import single_device_figure
from benchmarks.reports.profile_page import Picture, render_page
from benchmarks.reports.profile_results import Result, of_kind, read_results, several_devices, single_device_groups

PAGE = "report.html"
_KINDS = {
    "prefill": "latency, speedup and FLOPs of one device: `erecap profile prefill`",
    "generate": "decoding: `erecap profile generate`",
    "memory": "memory: `erecap profile memory`",
    "comm": "communication between devices: `erecap profile comm`",
    "predict": "several devices: `erecap profile predict`",
}


def write_profile_report(directories: Sequence[Path], out: Path) -> list[Path]:
    """Write the report of all result files in ``directories``.

    Parameters
    ----------
    directories
        Directories of result files; files are taken too.
    out
        Directory of the report.

    Returns
    -------
    list of Path
        The page, and the pictures.

    Raises
    ------
    ValueError
        For a directory without results, or a file that is no result of this version; the message names it.
    """
    results = read_results(directories)
    pictures = list(_pictures(results))
    found = {result.kind for result in results}
    gaps = [text for kind, text in _KINDS.items() if kind not in found]
    page = render_page(f"Profile of {', '.join(dict.fromkeys(result.machine for result in results))}", pictures, gaps, results)
    written = [out / PAGE, *(out / picture.name for picture in pictures)]
    write_atomically(written[0], page)
    for path, picture in zip(written[1:], pictures, strict=True):
        write_atomically(path, picture.png)
    return written


def _pictures(results: Sequence[Result]) -> Iterator[Picture]:
    for number, group in enumerate(single_device_groups(results), 1):
        caption = f"One device: {group.title}{f' ({group.prefill.path})' if group.prefill else ''}"
        yield Picture(f"single-device-{number}.png", caption, png(single_device_figure(group)))
    for number, prediction in enumerate(of_kind(results, "predict"), 1):
        figure = several_devices_figure(prediction, several_devices(results, prediction))
        yield Picture(f"several-devices-{number}.png", f"Several devices, predicted ({prediction.path})", png(figure))
    for number, measured in enumerate(of_kind(results, "comm"), 1):
        yield Picture(f"comm-{number}.png", f"Communication on {measured.machine} ({measured.path})", png(comm_figure(measured)))
