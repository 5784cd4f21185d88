"""Predictions: a trained model from its file, clips from arrays, stores and pose files, action names out.

>>> model = load("RUN")                                   # a run folder, or one of its files
>>> model.predict(joints, layout="coco17").top             # (T, V, C) numpy or torch, NaN where a joint is missing
'clap'
"""

from tmor_fast.inference.export import export_model
from tmor_fast.inference.loading import load
from tmor_fast.inference.model import ActionModel
from tmor_fast.inference.predictions import Prediction
from tmor_fast.inference.sources import Source, open_source
from tmor_fast.inference.writing import write_predictions

__all__ = ["ActionModel", "Prediction", "Source", "export_model", "load", "open_source", "write_predictions"]
