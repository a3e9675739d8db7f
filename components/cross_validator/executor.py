"""CrossValidator's executor: trains once for each fold, and writes down what is found."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from tfx import types
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_component_specs

from components.cross_validator import scores, suspects
from modules import contents, dataset, features, folds, trainer

FOLDS_KEY = "folds"
ANSWERS_FILE = "answers.parquet"
ACCURACY_PROPERTY, PICTURES_PROPERTY, SUSPECTS_PROPERTY = "accuracy", "pictures", "suspects"
"""Of the artifact, so that they outlive its files."""

_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("fold", pa.int32(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("label_score", pa.float32(), nullable=False),
    ]
)
"""Of the answers, a row a picture of train and eval: path below the source; its label; the fold without which the model was
trained, from 0; the most probable label, its probability, and that of the picture's own, 0 to 1."""
_log = logging.getLogger("finetune.components.cross_validator")


class Executor(base_executor.BaseExecutor):
    """Has each picture of train and eval answered by a model that saw neither it nor anything of its group."""

    def Do(  # noqa: N802 TFX's name
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Cross-validate.

        Args:
          input_dict: `examples` and `transform_graph`.
          output_dict: `cross_validation`.
          exec_properties: `custom_config`, JSON of what `modules.trainer.run_fn` gets; `folds`, how many.

        Raises:
          folds.FoldsError: there is too little to divide, or no prefix stays frozen.
        """
        config, count = json.loads(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY]), exec_properties[FOLDS_KEY]
        examples = input_dict[standard_component_specs.EXAMPLES_KEY]
        train, evaluation = (
            sorted(fileio.glob(os.path.join(artifact_utils.get_split_uri(examples, split), "*")))
            for split in (features.TRAIN, features.EVAL)
        )
        inputs = trainer.read_inputs(
            FnArgs(
                train_files=train,
                eval_files=evaluation,
                transform_graph_path=artifact_utils.get_single_uri(input_dict[standard_component_specs.TRANSFORM_GRAPH_KEY]),
                custom_config=config,
            )
        )
        labels = trainer.labels_of(inputs.transform_output)
        files = [*train, *evaluation]
        pictures = dataset.read(files, inputs.train.height, inputs.train.width, labels)
        origins = contents.origins(files)
        found = folds.predict(inputs, pictures, origins.groups, count, config)
        artifact = artifact_utils.get_single_instance(output_dict[scores.RESULT_KEY])
        self._write(artifact, labels, pictures.contents, origins, found, count)

    def _write(
        self,
        artifact: types.Artifact,
        labels: list[str],
        pictures: contents.Contents,
        origins: contents.Origins,
        found: folds.OutOfFold,
        count: int,
    ) -> None:
        scored = scores.score(count, pictures.label_ids, found.probabilities, labels, origins.groups)
        scores.write(artifact.uri, scored)
        suspected = [
            suspects.Suspect(origins.paths[place], labels[pictures.label_ids[place]], labels[seems], score)
            for place, seems, score in suspects.find(pictures.label_ids, found.probabilities, found.learnt)
        ]
        suspects.write(artifact.uri, suspected)
        answers = found.probabilities.argmax(axis=1)
        names = pa.array(labels, pa.string())
        columns = [
            pa.array(origins.paths, pa.string()),
            names.take(pa.array(pictures.label_ids)),
            pa.array(found.folds, pa.int32()),
            names.take(pa.array(answers)),
            pa.array(found.probabilities.max(axis=1)),
            pa.array(found.probabilities[range(pictures.total), pictures.label_ids]),
        ]
        content = pa.BufferOutputStream()
        pa.parquet.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), content, compression="zstd")
        with fileio.open(os.path.join(artifact.uri, ANSWERS_FILE), "wb") as opened:
            opened.write(content.getvalue().to_pybytes())
        artifact.set_float_custom_property(ACCURACY_PROPERTY, scored.accuracy)
        artifact.set_int_custom_property(PICTURES_PROPERTY, scored.pictures)
        artifact.set_int_custom_property(SUSPECTS_PROPERTY, len(suspected))
        _log.info("%d folds: accuracy %.4f on %d pictures", count, scored.accuracy, scored.pictures)
        if suspected:
            _log.warning("%d labels may be wrong; %s names them", len(suspected), suspects.FILE)
