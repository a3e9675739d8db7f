"""The front door: the command `finetune`. Arguments, progress and exit codes; the work is done elsewhere.

Exit codes: 0, 1 (the run failed or the gate refused) and 2 (usage). Results go to standard output, all else to
standard error. Heavy libraries are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import click

from cli import config, entry, kubeflow, predictions, report, run, serving, upkeep


@click.group(cls=entry.Entry, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="finetune")
def main() -> None:
    """From a folder of labelled pictures to a gated, published classifier.

    \b
    Examples:
      finetune run --data photos --output-dir runs/photos
      finetune predict --model runs/photos/serving picture.jpg
    """


for command in (
    run.run,
    predictions.predictions,
    serving.predict,
    serving.serve_check,
    serving.models,
    run.data,
    report.report,
    upkeep.history,
    upkeep.clean,
    config.config,
    kubeflow.kubeflow,
):
    main.add_command(command)
