"""`finetune report`: the page of a run, anew."""

from __future__ import annotations

from pathlib import Path

import click

from cli import options


@click.command()
@options.project_option
@click.option("--run", metavar="RUN_ID", help="Without, the newest one; `finetune history --json` names them.")
@click.option("--output", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="OUTPUT_DIR/report.html.")
@click.option("--no-pictures", is_flag=True, help="Leave thumbnails out.")
@click.option("--open", "show", is_flag=True, help="Show it in the browser.")
def report(output_dir: Path, run: str | None, output: Path | None, no_pictures: bool, show: bool) -> None:
    """Write the page of a run, one HTML file that loads nothing: what became of it, what went wrong, and what to do.

    Each run writes it at its end, as report.html in its folder. Pictures can be private, and thumbnails are in the page,
    unless the run's configuration has `report.pictures: false`.

    \b
    Examples:
      finetune report --output-dir runs/photos --open
      finetune report --output-dir runs/photos --run 2027-01-01T02:00:00.000000+00:00 --output january.html
    """
    from pipeline import log_file

    into = (output or output_dir / "report.html").absolute()
    if not into.parent.is_dir():
        raise options.InputError(f"--output {output}: there is no folder {into.parent}")
    with log_file.capture_output():
        from pipeline import outcome, output_folder, place, project
        from pipeline import report as page

        try:
            name = project.owner(output_dir)
        except output_folder.FolderError as error:
            raise options.InputError(str(error)) from None
        folder = output_dir.resolve()
        connection = outcome.read_only(folder / output_folder.METADATA_FILE)
        with place.inside(str(folder)):
            wanted = run or page.newest_run(connection, name)
            if wanted is None:
                raise options.InputError(f"{output_dir}: no run here has left anything to report on")
            pictures = not no_pictures and page.may_show_pictures(connection, name, wanted)
            try:
                found = page.facts(connection, name, wanted, str(folder / "serving"), pictures)
            except LookupError as error:
                raise options.InputError(f"{error.args[0]}; `finetune history --json` names those that there are") from None
            page.write(found, into)
    click.echo(str(output or output_dir / "report.html"))
    options.check_printed()
    if show:
        click.launch(into.as_uri())
